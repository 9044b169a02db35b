//! Where the server listens: TCP addresses and Unix sockets, from their names to accepted connections.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::authority::Mender;
use super::transport;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// One address, and what is spoken there.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `host:port`, where port 0 takes a free one and `[::]` takes IPv4 too; or `unix:PATH`.
    pub address: String,
    /// Whether connections begin with a TLS handshake.
    pub tls: bool,
    /// Whether gRPC and administration are refused, because they are offered elsewhere under TLS.
    pub rest_only: bool,
}

/// A bound address.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "kept for what happens when it goes")] SocketFile),
}

impl Listener {
    /// Binds an address; `mode` holds the permissions that the file of a Unix socket gets, `None` leaves them to the
    /// process's umask.
    pub(super) fn bind(address: &str, mode: Option<u32>) -> io::Result<Self> {
        let bound = match address.strip_prefix("unix:") {
            Some(path) => bind_unix(Path::new(path), mode),
            None => bind_tcp(address),
        };
        bound.map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
    }

    /// The address really bound, if it is one of TCP.
    pub(super) fn tcp_address(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Some),
            Self::Unix(..) => Ok(None),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<transport::Socket> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                transport::Socket::Tcp(stream)
            }
            Self::Unix(listener, _) => transport::Socket::Unix(listener.accept().await?.0, Mender::default()),
        })
    }
}

fn bind_tcp(address: &str) -> io::Result<Listener> {
    let address = address
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the host has no address"))?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into()).map(Listener::Tcp)
}

fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<Listener> {
    let address = SockAddr::unix(path)?;
    remove_if_stale(path, &address)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address)?;
    // Nobody can connect before `listen`, so nobody does while the permissions are still those of the umask.
    if let Some(mode) = mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    let file = SocketFile::new(path)?;
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from_std(std::os::fd::OwnedFd::from(socket).into())?;
    Ok(Listener::Unix(listener, file))
}

/// Makes way for a socket where a server that is no more left its own; never takes away anything else.
fn remove_if_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // It would block where somebody listens and has many connections to accept.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens there")),
    }
}

/// The file of a Unix socket, which goes with its listener.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        // Absolute, because the working directory may be another one by the time it is removed.
        Ok(Self { path: std::path::absolute(path)?, identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Unless it is another server's by now. Nobody is left to be told of a failure.
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
