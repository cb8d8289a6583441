//! A replica of our own, in a process of its own, for the case of a live database: that needs a barrier, and is measured with a lease
//! and without one.

use std::path::Path;
use std::time::Duration;

use syncfs::{Config, Folder};
use tokio::net::{TcpListener, TcpStream};

/// Serves `dir`. With an address to dial it only receives; without one it is the writer, if `leased` by a lease, lets the other one in,
/// and answers each line of standard input, a device ID, with `done` once that device has everything.
pub(crate) fn run(dir: &Path, at: Option<&str>, leased: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made").block_on(async {
        let folder = Folder::create(Config::new(dir)).await.expect("the folder can be opened");
        match at {
            Some(at) => {
                let stream = TcpStream::connect(at).await.expect("the writer listens");
                stream.set_nodelay(true).expect("a socket takes it");
                println!("ready {}", folder.device());
                let _ = folder.sync(stream, None).await;
            }
            None => write(folder, leased).await,
        }
    });
}

async fn write(folder: Folder, leased: bool) {
    if leased {
        folder.hold(1).await.expect("the first lease is free");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    println!("ready {}", listener.local_addr().expect("it is bound"));
    let (stream, _) = listener.accept().await.expect("the other one dials");
    stream.set_nodelay(true).expect("a socket takes it");
    let syncing = tokio::spawn({
        let folder = folder.clone();
        async move { folder.sync(stream, None).await }
    });
    let (asked, mut questions) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = asked.blocking_send(line);
        }
    });
    while let Some(peer) = questions.recv().await {
        let peer = peer.parse().expect("a device ID");
        let token = folder.flush().await.expect("the folder can be read");
        let limit = Duration::from_secs(600);
        folder.wait(&token, &[peer], limit).await.expect("the other one keeps up");
        println!("done");
    }
    syncing.abort();
}
