//! The admin interface over a real socket in a temporary directory.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use evenkeel_process::admin::{Answer, Error, Listener, get};
use tempfile::TempDir;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

struct Served {
    directory: TempDir,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Served {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let listener = Listener::bind(&directory.path().join("admin.sock")).await.unwrap();
        let task = tokio::spawn(listener.serve(
            async |path| match path.as_str() {
                "/status" => Some(Answer { content_type: "application/json", body: b"{\"ok\":true}".to_vec() }),
                "/binary" => Some(Answer { content_type: "application/octet-stream", body: vec![0xff] }),
                _ => None,
            },
            stop.clone(),
        ));
        Self { directory, stop, task }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }
}

#[tokio::test]
async fn answers_known_paths_and_only_those() {
    let served = Served::start().await;
    assert_eq!(get(&served.socket(), "/status").await.unwrap(), "{\"ok\":true}");
    assert!(matches!(get(&served.socket(), "/other").await, Err(Error::NotFound { path, .. }) if path == "/other"));
    assert!(matches!(get(&served.socket(), "/binary").await, Err(Error::Protocol { .. })));
    assert!(matches!(get(&served.socket(), "not a path").await, Err(Error::Protocol { .. })));
}

#[tokio::test]
async fn only_owner_and_group_may_connect() {
    let served = Served::start().await;
    let mode = fs::metadata(served.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[tokio::test]
async fn the_socket_is_removed_in_the_end() {
    let served = Served::start().await;
    let socket = served.socket();
    served.stop.cancel();
    served.task.await.unwrap();
    assert!(!socket.exists());
    assert!(matches!(get(&socket, "/status").await, Err(Error::NoSuchSocket(_))));
}

#[tokio::test]
async fn a_successors_socket_is_left_alone() {
    let served = Served::start().await;
    let socket = served.socket();
    // Renamed into place rather than bound there: a freed inode number might otherwise be used again.
    let successor = socket.with_extension("new");
    let _listener = std::os::unix::net::UnixListener::bind(&successor).unwrap();
    fs::rename(&successor, &socket).unwrap();
    served.stop.cancel();
    served.task.await.unwrap();
    assert!(socket.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(matches!(get(&socket, "/status").await, Err(Error::NobodyListening(_))));

    let _listener = Listener::bind(&socket).await.unwrap();
    assert!(matches!(Listener::bind(&socket).await, Err(Error::InUse(_))));
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("admin.sock");
    fs::write(&file, "precious").unwrap();
    assert!(matches!(Listener::bind(&file).await, Err(Error::NotASocket(_))));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn an_answer_under_way_is_finished_at_shutdown() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let stop = CancellationToken::new();
    let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let listener = Listener::bind(&socket).await.unwrap();
    let handler = {
        let (asked, answer) = (asked.clone(), answer.clone());
        move |_| {
            let (asked, answer) = (asked.clone(), answer.clone());
            async move {
                asked.notify_one();
                answer.notified().await;
                Some(Answer { content_type: "text/plain", body: b"late".to_vec() })
            }
        }
    };
    let server = tokio::spawn(listener.serve(handler, stop.clone()));
    let client = tokio::spawn({
        let socket = socket.clone();
        async move { get(&socket, "/").await }
    });
    asked.notified().await;
    stop.cancel();
    // The socket goes first: from here on nobody new gets in.
    while Path::exists(&socket) {
        tokio::task::yield_now().await;
    }
    answer.notify_one();
    assert_eq!(client.await.unwrap().unwrap(), "late");
    server.await.unwrap();
}
