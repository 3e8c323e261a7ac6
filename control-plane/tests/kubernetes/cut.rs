//! A relay in front of an API server whose connections a test can cut.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use evermesh_testkit::{kubernetes::ApiServer, tools};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::broadcast,
};

pub(crate) struct Cut {
    kubeconfig: PathBuf,
    cut: broadcast::Sender<()>,
    count: Arc<AtomicUsize>,
    _dir: TempDir,
}

impl Cut {
    /// Relays to the API server, wherever it is in its life.
    pub(crate) async fn before(api: &ApiServer) -> Self {
        let dir = tools::scratch("cut").unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let text = fs::read_to_string(api.kubeconfig()).unwrap();
        let url = api.url();
        assert!(text.contains(&url), "{text}");
        fs::write(&kubeconfig, text.replace(&url, &address)).unwrap();
        let (cut, _) = broadcast::channel(1);
        let count = Arc::<AtomicUsize>::default();
        let host = url.strip_prefix("https://").unwrap();
        let target: SocketAddr = host.parse().unwrap();
        tokio::spawn(relay(listener, target, cut.clone(), Arc::clone(&count)));
        Self {
            kubeconfig,
            cut,
            count,
            _dir: dir,
        }
    }

    /// A kubeconfig that leads through here.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Cuts every connection.
    pub(crate) fn all(&self) {
        // Without connections there is nothing to cut.
        let _ = self.cut.send(());
    }

    /// How many connections were cut.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

async fn relay(
    listener: TcpListener,
    target: SocketAddr,
    cut: broadcast::Sender<()>,
    count: Arc<AtomicUsize>,
) {
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut cut = cut.subscribe();
        let count = Arc::clone(&count);
        tokio::spawn(async move {
            let relayed = async {
                let mut server = TcpStream::connect(target).await?;
                copy_bidirectional(&mut client, &mut server).await
            };
            tokio::select! {
                // Whoever hung up first, both are told by the end of the streams.
                _ = relayed => {}
                _ = cut.recv() => {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
}
