//! A gRPC server on a unix socket, until SIGTERM; calls under way are finished first.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::Connected;
use tonic::transport::server::Router;

/// The path of an endpoint as CSI writes it: `unix:///csi/csi.sock`, or the path alone.
///
/// # Errors
/// What an endpoint looks like.
pub fn socket_path(endpoint: &str) -> Result<PathBuf, String> {
    let path = endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:"));
    let path = PathBuf::from(path.unwrap_or(endpoint));
    match path.is_absolute() {
        true => Ok(path),
        false => Err("is no endpoint; example: unix:///csi/csi.sock".to_owned()),
    }
}

/// Becomes true at SIGTERM or SIGINT.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn ended() -> io::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to end: calls under way are finished first");
        // Whoever does not listen any more has ended already.
        let _ = sender.send(true);
    });
    Ok(receiver)
}

/// Serves until it is asked to end.
///
/// # Errors
/// If the socket cannot be made, or the transport fails.
pub async fn serve(router: Router, socket: &Path, ended: watch::Receiver<bool>) -> io::Result<()> {
    serve_through(|stream| stream, router, socket, ended).await
}

/// The same for callers whose requests are read over by `through` first.
///
/// # Errors
/// If the socket cannot be made, or the transport fails.
pub async fn serve_through<S>(
    mut through: impl FnMut(UnixStream) -> S,
    router: Router,
    socket: &Path,
    mut ended: watch::Receiver<bool>,
) -> io::Result<()>
where
    S: AsyncRead
        + AsyncWrite
        + Connected<ConnectInfo: Clone + Send + Sync>
        + Unpin
        + Send
        + 'static,
{
    let listener = listen(socket)?;
    tracing::info!(socket = %socket.display(), "serving");
    let stop = async move {
        // An error: nobody can ask any more, so nobody will.
        let _ = ended.wait_for(|ended| *ended).await;
    };
    let incoming = UnixListenerStream::new(listener).map(|stream| stream.map(&mut through));
    // The socket's file stays: the next instance may have made its own already, kubelet's directory is shared.
    router.serve_with_incoming_shutdown(incoming, stop).await.map_err(io::Error::other)
}

/// The socket of a former instance is in the way; nothing else is removed.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    let in_place = |error: io::Error| {
        io::Error::new(error.kind(), format!("socket {}: {error}", socket.display()))
    };
    if std::fs::symlink_metadata(socket).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        std::fs::remove_file(socket).map_err(in_place)?;
    }
    if let Some(directory) = socket.parent() {
        std::fs::create_dir_all(directory).map_err(in_place)?;
    }
    let listener = UnixListener::bind(socket).map_err(in_place)?;
    // Whoever may connect may delete volumes: this user alone (kubelet and the sidecars are root, or share
    // the pod's group).
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o660)).map_err(in_place)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_unix_socket() {
        for text in ["unix:///a/b", "unix:/a/b", "/a/b"] {
            assert_eq!(socket_path(text), Ok(PathBuf::from("/a/b")), "{text}");
        }
        for text in ["tcp://127.0.0.1:1", "a/b", ""] {
            assert!(socket_path(text).is_err(), "{text}");
        }
    }
}
