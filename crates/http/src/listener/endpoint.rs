//! Endpoints: TCP addresses and Unix sockets, from their names to accepted connections.
//!
//! An address is bound long before it listens. Until then connections are refused, but no other server can bind it.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, SockFilter, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::transport;
use super::uds_authority::AuthorityRewriter;

/// The length of the listen queue.
const BACKLOG: i32 = 1024;

/// A program for the kernel's packet filter that drops TCP segments with SYN and without ACK.
const NO_SYN: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13), // load the flags, which are the 14th byte of the segment
    SockFilter::new(0x54, 0, 0, 0x12), // of these, SYN and ACK
    SockFilter::new(0x15, 0, 1, 0x02), // if it is SYN alone,
    SockFilter::new(0x06, 0, 0, 0),  // keep nothing,
    SockFilter::new(0x06, 0, 0, u32::MAX), // and else everything
];

/// An address, and the requests that it answers.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `host:port`, or `unix:PATH`. Port 0 selects a free port, and `[::]` includes IPv4.
    pub address: String,
    /// Whether connections begin with a TLS handshake.
    pub tls: bool,
    /// Which requests are answered.
    pub offer: Offer,
}

/// Which requests an address answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// REST and gRPC.
    Everything,
    /// REST without administration: gRPC and administration are offered elsewhere, under TLS.
    RestOnly,
    /// Health checks, from the start of the server.
    HealthOnly,
    /// The administration API, from the start of the server.
    Administration,
}

impl Offer {
    /// The variant of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "everything" => Some(Self::Everything),
            "rest" => Some(Self::RestOnly),
            "health" => Some(Self::HealthOnly),
            "administration" => Some(Self::Administration),
            _ => None,
        }
    }

    /// Whether connections are accepted before the server opens.
    pub(super) fn is_early(self) -> bool {
        matches!(self, Self::HealthOnly | Self::Administration)
    }
}

/// A bound address at which connections are refused.
pub(super) struct Bound {
    address: String,
    socket: Socket,
    file: Option<SocketFile>,
}

impl Bound {
    /// Binds an address. `mode` are the permissions of the file of a Unix socket; `None` leaves them to the umask.
    pub(super) fn new(address: &str, mode: Option<u32>) -> io::Result<Self> {
        let bound = match address.strip_prefix("unix:") {
            Some(path) => bind_unix(Path::new(path), mode).map(|(socket, file)| (socket, Some(file))),
            None => bind_tcp(address).map(|socket| (socket, None)),
        };
        let (socket, file) = bound.map_err(|error| cannot_listen(address, &error))?;
        Ok(Self { address: address.to_owned(), socket, file })
    }

    /// The address really bound, if it is one of TCP.
    pub(super) fn tcp_address(&self) -> io::Result<Option<SocketAddr>> {
        Ok(self.socket.local_addr()?.as_socket())
    }

    /// Starts to listen. Must be called inside a runtime.
    pub(super) fn listen(self) -> io::Result<Listener> {
        let Self { address, socket, file } = self;
        let listen = || {
            if file.is_none() {
                // With this option, the next server can bind the port while connections of this one linger. It is set
                // only now: two sockets with the option may be bound to the same port before either listens.
                socket.set_reuse_address(true)?;
            }
            socket.listen(BACKLOG)
        };
        listen().map_err(|error| cannot_listen(&address, &error))?;
        Ok(match file {
            Some(file) => Listener::Unix(UnixListener::from_std(OwnedFd::from(socket).into())?, Some(file)),
            None => Listener::Tcp(TcpListener::from_std(socket.into())?),
        })
    }
}

fn cannot_listen(address: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
}

/// A listening address.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, Option<SocketFile>),
}

impl Listener {
    /// Refuses new connections. Connections in progress can still be accepted.
    ///
    /// Over TCP, the client's system repeats its SYN until the listener is closed.
    pub(super) fn refuse_new(&mut self) {
        match self {
            Self::Tcp(listener) => {
                // On systems without such filters, a connection that arrives in the last moment may be lost.
                let _ = SockRef::from(&*listener).attach_filter(&NO_SYN);
            }
            Self::Unix(_, file) => drop(file.take()),
        }
    }

    /// Accepts the next connection. The system closes it if its client acknowledges nothing for `patience`.
    pub(super) async fn accept(&self, patience: Duration) -> io::Result<transport::Socket> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                // This also holds after it was closed, while data is unsent.
                let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(patience));
                transport::Socket::Tcp(stream)
            }
            Self::Unix(listener, _) => {
                transport::Socket::Unix(listener.accept().await?.0, AuthorityRewriter::default())
            }
        })
    }
}

fn bind_tcp(address: &str) -> io::Result<Socket> {
    // `localhost` may resolve to both families. IPv4 first: that is the address that clients expect.
    let address = address
        .to_socket_addrs()?
        .min_by_key(SocketAddr::is_ipv6)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the host has no address"))?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    let address = address.into();
    match socket.bind(&address) {
        // It may be that only connections of an earlier server are left.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            socket.set_reuse_address(true)?;
            socket.bind(&address)?;
            socket.set_reuse_address(false)?;
        }
        bound => bound?,
    }
    Ok(socket)
}

fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<(Socket, SocketFile)> {
    let address = SockAddr::unix(path)?;
    remove_if_stale(path, &address)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address)?;
    // No client can connect before `listen`, while the permissions are still those of the umask.
    if let Some(mode) = mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    let file = SocketFile::new(path)?;
    Ok((socket, file))
}

/// Removes the socket file of a server that has ended, and no other file.
fn remove_if_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Ok(_) => {}
    }
    // The probe has the wrong type, so that a bound socket that does not listen yet differs from a dead one.
    let probe = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() != Some(Errno::PROTOTYPE.raw_os_error()) => Err(error),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens there")),
    }
}

/// The file of a Unix socket, removed with its listener.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        // Absolute, because the working directory may change before it is removed.
        Ok(Self { path: std::path::absolute(path)?, identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another server may have replaced it. A failure cannot be reported.
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
