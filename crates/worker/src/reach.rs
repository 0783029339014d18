//! Whether ranks reach each other: each listens on the network of its collectives, and tries to connect to peers when it is asked.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    time::Duration,
};

use muster_proto::v1;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    task::JoinSet,
};
use tracing::warn;

/// A connection is tried so often, one attempt after the other: a lost packet is no lost network, and the kernel sends the first one
/// again only after a second.
const ATTEMPTS: usize = 4;
/// More than any round trip within a cluster.
const ATTEMPT: Duration = Duration::from_millis(300);
/// Before the next connection where none can be taken.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens for as long as the process lives, and closes at once what is opened. Returns `host:port`, as peers connect to it; empty
/// where it cannot listen: then nobody is asked whether this rank can be reached.
///
/// `host` is the name or address at which peers reach this rank; where `interface` is not empty, the address of that is used
/// instead.
pub fn listen(runtime: &Handle, host: &str, interface: &str) -> String {
    let address = match interface {
        "" => resolve(host),
        interface => address_of(interface),
    };
    let listener = address.and_then(|ip| runtime.block_on(TcpListener::bind((ip, 0))));
    match listener.and_then(|listener| Ok((listener.local_addr()?, listener))) {
        Ok((address, listener)) => {
            runtime.spawn(accept(listener));
            address.to_string()
        }
        Err(cause) => {
            warn!(%cause, host, interface, "cannot listen for peers that see whether they reach this rank");
            String::new()
        }
    }
}

async fn accept(listener: TcpListener) {
    loop {
        if listener.accept().await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn resolve(host: &str) -> io::Result<IpAddr> {
    let mut addresses = (host, 0).to_socket_addrs()?;
    let address = addresses.next().map(|address| address.ip());
    address.ok_or_else(|| io::Error::other(format!("{host} has no address")))
}

/// The interface's address: IPv4 before IPv6, and none that is valid on one link only.
fn address_of(interface: &str) -> io::Result<IpAddr> {
    let mut found: Option<IpAddr> = None;
    for one in nix::ifaddrs::getifaddrs()? {
        let Some(address) = one.address.filter(|_| one.interface_name == interface) else {
            continue;
        };
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        let v6 = address.as_sockaddr_in6().map(|it| it.ip());
        let v6 = v6.filter(|ip| !ip.is_unicast_link_local()).map(IpAddr::V6);
        if let Some(v4) = v4 {
            return Ok(v4);
        }
        found = found.or(v6);
    }
    found.ok_or_else(|| io::Error::other(format!("interface {interface} has no address")))
}

/// The ids of those to whom no connection can be made, all tried at the same time.
pub async fn unreachable(peers: Vec<v1::Peer>) -> Vec<String> {
    let mut tries = JoinSet::new();
    for peer in peers {
        tries.spawn(async move {
            let reached = is_reached(&peer.reach_address).await;
            (!reached).then_some(peer.worker_id)
        });
    }
    let mut unreachable: Vec<_> = tries.join_all().await.into_iter().flatten().collect();
    unreachable.sort();
    unreachable
}

async fn is_reached(address: &str) -> bool {
    let Ok(address) = address.parse::<SocketAddr>() else {
        // Nothing is known of it, so nothing speaks against it.
        return true;
    };
    for _ in 0..ATTEMPTS {
        match tokio::time::timeout(ATTEMPT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return true,
            // Whoever refuses is there.
            Ok(Err(cause)) if cause.kind() == io::ErrorKind::ConnectionRefused => return true,
            Ok(Err(_)) => tokio::time::sleep(ATTEMPT).await,
            Err(_) => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(worker: &str, address: &str) -> v1::Peer {
        v1::Peer {
            worker_id: worker.into(),
            reach_address: address.into(),
        }
    }

    #[test]
    fn peers_that_listen_are_reached_and_others_are_named() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let handle = runtime.handle();
        let here = listen(handle, "127.0.0.1", "");
        let by_interface = listen(handle, "name.of.no.one", "lo");
        assert!(here.starts_with("127.0.0.1:"), "{here}");
        assert!(by_interface.starts_with("127.0.0.1:"), "{by_interface}");
        assert_eq!(listen(handle, "127.0.0.1", "none-such"), "");
        assert_eq!(
            listen(handle, "203.0.113.9", ""),
            "",
            "an address of another machine"
        );
        let peers = vec![
            peer("w-1", &here),
            // No connection can be made to all at once, and nothing is sent.
            peer("w-3", "255.255.255.255:9"),
            peer("w-2", &by_interface),
            peer("w-4", "no address"),
            // Its kernel answers, nobody listens.
            peer("w-5", "127.0.0.1:1"),
        ];
        assert_eq!(runtime.block_on(unreachable(peers)), ["w-3"]);
    }
}
