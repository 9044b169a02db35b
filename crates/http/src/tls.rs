//! TLS: certificates from PEM text, and the configuration of new connections.
//!
//! The control plane reads the files and detects changes.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{Error, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// Text in PEM form, with its origin.
#[derive(Clone)]
pub struct Pem {
    /// The name in error messages, such as that of its file.
    pub name: String,
    /// The text.
    pub text: Vec<u8>,
}

/// Keys are not logged.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The credentials of the server, and the authority for clients.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The certificate of the server, followed by intermediate ones.
    pub certificate: Pem,
    /// Its private key.
    pub key: Pem,
    /// If set, clients need a certificate that one of these authorities has signed.
    pub client_ca: Option<Pem>,
}

/// The offered protocols. gRPC clients require the first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The credentials in force. A connection keeps those of its handshake.
#[derive(Debug, Default)]
pub struct Tls {
    current: ArcSwapOption<ServerConfig>,
}

impl Tls {
    /// Replaces the credentials for new connections.
    ///
    /// Sessions of the old credentials cannot be resumed.
    ///
    /// # Errors
    ///
    /// They are invalid, and the old ones stay in force. The text names the faulty file and its fault.
    pub fn set(&self, credentials: &Credentials) -> Result<(), String> {
        self.current.store(Some(Arc::new(server_config(credentials)?)));
        Ok(())
    }

    /// The acceptor for the next handshake; `None` without credentials.
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.current.load_full().map(TlsAcceptor::from)
    }
}

fn server_config(credentials: &Credentials) -> Result<ServerConfig, String> {
    let Credentials { certificate, key, client_ca } = credentials;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(authority)? {
                roots.add(root).map_err(|error| format!("{}: {error}", authority.name))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| format!("{}: {error}", authority.name))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        builder.with_single_cert(certificates(certificate)?, private_key(key)?).map_err(|error| match error {
            Error::InconsistentKeys(_) => format!("{} is not the key of {}", key.name, certificate.name),
            Error::InvalidCertificate(_) => format!("{}: {error}", certificate.name),
            _ => format!("{}: {error}", key.name),
        })?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    config.ticketer = ring::Ticketer::new().map_err(|error| error.to_string())?;
    Ok(config)
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem.text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("{} holds no certificate in PEM form", pem.name)),
        Ok(found) => Ok(found),
        Err(_) => Err(format!("{} is damaged", pem.name)),
    }
}

fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&pem.text).map_err(|error| match error {
        pem::Error::NoItemsFound if is_encrypted(&pem.text) => {
            format!("{} is locked with a passphrase; a server needs a key without one", pem.name)
        }
        pem::Error::NoItemsFound => format!("{} holds no private key in PEM form", pem.name),
        // Never the text of the error: it may quote the key.
        _ => format!("{} is damaged", pem.name),
    })
}

fn is_encrypted(text: &[u8]) -> bool {
    memchr::memmem::find(text, b"-----BEGIN ENCRYPTED PRIVATE KEY-----").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str, text: &str) -> Pem {
        Pem { name: name.to_owned(), text: text.as_bytes().to_vec() }
    }

    #[test]
    fn invalid_credentials_are_named_and_change_nothing() {
        let tls = Tls::default();
        let cases = [
            ("", "", "cert.pem holds no certificate in PEM form"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", "", "cert.pem is damaged"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "", "key.pem holds no private key"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "key.pem is locked with a passphrase",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n",
                "key.pem is damaged",
            ),
        ];
        for (certificate, key, expected) in cases {
            let credentials =
                Credentials { certificate: pem("cert.pem", certificate), key: pem("key.pem", key), client_ca: None };
            let error = tls.set(&credentials).expect_err("it is unusable");
            assert!(error.starts_with(expected), "{error}");
            assert!(tls.acceptor().is_none());
        }
    }

    #[test]
    fn keys_are_not_written_into_logs() {
        let credentials =
            Credentials { certificate: pem("c", "x"), key: pem("k", "secret"), client_ca: Some(pem("a", "x")) };
        assert!(!format!("{credentials:?}").contains(&format!("{:?}", b"secret")));
    }
}
