//! Caps on connections, of all peers together and of each: those above are closed before their handshake costs anything.

use std::{
    collections::HashMap,
    future::{Ready, ready},
    io::{self, IoSlice},
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum_server::accept::Accept;
use ipnet::IpNet;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{HttpConfig, stall::Impatient};

/// Lets in as many connections as there are permits, and of one peer as many as one may have.
#[derive(Clone)]
pub(super) struct Capped(Arc<Shared>);

struct Shared {
    all: Arc<Semaphore>,
    per_peer: usize,
    /// Proxies, through which everybody comes.
    exempt: Vec<IpNet>,
    patience: Duration,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl Capped {
    /// A connection whose peer takes nothing of an answer for `patience` fails, and leaves its place.
    pub(super) fn new(config: &HttpConfig, patience: Duration) -> Self {
        Self(Arc::new(Shared {
            all: Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS))),
            per_peer: config.max_connections_per_address,
            exempt: config.trusted_proxies.clone(),
            patience,
            open: Mutex::default(),
        }))
    }

    fn enter(&self, address: IpAddr) -> io::Result<Place> {
        let address = address.to_canonical();
        let exempt = self.0.exempt.iter().any(|net| net.contains(&address));
        let peer = if exempt { None } else { Some(Peer::enter(&self.0, peer(address))?) };
        let permit = Arc::clone(&self.0.all).try_acquire_owned().map_err(io::Error::other)?;
        Ok(Place { _permit: permit, _peer: peer })
    }
}

/// Whoever has one IPv6 address has all 2^64 of its network.
fn peer(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

/// The place of one connection, until it is dropped.
struct Place {
    _permit: OwnedSemaphorePermit,
    _peer: Option<Peer>,
}

struct Peer {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Peer {
    fn enter(shared: &Arc<Shared>, address: IpAddr) -> io::Result<Self> {
        let mut open = shared.open();
        let count = open.entry(address).or_default();
        if *count >= shared.per_peer {
            return Err(io::Error::other("as many connections from this address as one may have"));
        }
        *count += 1;
        Ok(Self { shared: Arc::clone(shared), address })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut open = self.shared.open();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing under this lock leaves it half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Accept<TcpStream, S> for Capped {
    type Stream = Held;
    type Service = S;
    type Future = Ready<io::Result<(Held, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let held = stream.peer_addr().and_then(|peer| self.enter(peer.ip())).and_then(|place| {
            // Answers are small: nothing is won by waiting for more to send.
            stream.set_nodelay(true)?;
            Ok((Held { stream: Impatient::new(stream, self.0.patience), _place: place }, service))
        });
        ready(held)
    }
}

/// A connection that holds its place for as long as it lives.
pub(super) struct Held {
    stream: Impatient<TcpStream>,
    _place: Place,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_does_not_take_all_places() {
        let config = HttpConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            tls: None,
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            max_connections: 6,
            max_connections_per_address: 2,
            drain_s: 0,
        };
        let capped = Capped::new(&config, Duration::MAX);
        let enter = |address: &str| capped.enter(address.parse().unwrap());
        let held = [enter("192.0.2.1").unwrap(), enter("::ffff:192.0.2.1").unwrap()];
        assert!(enter("192.0.2.1").is_err());
        let others = [enter("2001:db8::1").unwrap(), enter("2001:db8::2:1").unwrap()];
        assert!(enter("2001:db8::3").is_err(), "the same network of one owner");
        drop(others);
        let proxied: Vec<_> = (0..4).map(|_| enter("10.0.0.1").unwrap()).collect();
        assert!(enter("10.0.0.1").is_err(), "as many as all may have");
        assert!(enter("192.0.2.3").is_err());
        drop((held, proxied));
        assert!(capped.0.open().is_empty(), "who went is forgotten, and one that was not let in never came");
        assert!(enter("192.0.2.1").is_ok());
    }
}
