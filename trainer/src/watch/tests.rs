//! Heartbeats over a connection that breaks.

use std::{
    io::copy,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Mutex, mpsc},
};

use jacobi_datasets::Rank;
use jacobi_torch_ext::Store;

use super::*;

/// Forwards connections to `port` until they are cut.
struct Wire {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = Arc::new(Mutex::new(Vec::new()));
        let wire = Self { port: listener.local_addr().unwrap().port(), open: Arc::clone(&open) };
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = TcpStream::connect(("127.0.0.1", port)).unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let [mut from, mut to] = [from, to].map(|end| end.try_clone().unwrap());
                    open.lock().unwrap().push(from.try_clone().unwrap());
                    std::thread::spawn(move || copy(&mut from, &mut to));
                }
            }
        });
        wire
    }

    /// Breaks every connection; later ones work.
    fn cut(&self) {
        for end in self.open.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn heartbeats_go_on_and_reasons_are_read_after_a_connection_has_broken() {
    let address = |port, serves| StoreAddress {
        host: "127.0.0.1".to_owned(),
        port,
        serves,
        prefix: "jacobi/0".to_owned(),
    };
    let server = Store::open(&address(0, true), Duration::from_secs(10)).unwrap();
    let wire = Wire::to(server.port());
    let member = Membership {
        rank: Rank { rank: 1, world_size: 2 },
        local_rank: 1,
        host: "127.0.0.1".to_owned(),
        port: wire.port,
        keeper: Keeper::Launcher,
        attempt: 0,
    };
    let (sender, abandoned) = mpsc::channel();
    let watch =
        Watch::start(&member, Box::new(move |failure| sender.send(failure.to_string()).unwrap())).unwrap();
    let heartbeat = || server.get(&heartbeat_key(1)).unwrap();
    let next = |after: Option<String>| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while heartbeat() == after {
            assert!(Instant::now() < deadline, "no heartbeat follows {after:?}");
            std::thread::sleep(HEARTBEAT / 10);
        }
    };
    next(None);
    for _ in 0..2 {
        wire.cut();
        next(heartbeat());
        next(heartbeat());
    }
    wire.cut();
    server.set(FAILED, "0 its disk is full").unwrap();
    let failure = watch.blame(CollectiveError("broken".to_owned()), Duration::from_secs(5));
    assert!(failure.to_string().contains("rank 0 of 2 gave up: its disk is full"), "{failure}");
    let reason = abandoned.recv_timeout(GRACE + Duration::from_secs(10)).unwrap();
    assert!(reason.contains("its disk is full"), "{reason}");
}
