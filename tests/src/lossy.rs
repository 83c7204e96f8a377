//! A proxy in front of a hub that passes every request on and loses answers: what a client's time-out looks like from
//! the other side.

use std::{
    io::{Read as _, Write as _, copy},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;

/// The proxy. Its threads end with the process.
pub struct Lossy {
    address: SocketAddr,
    lost: Arc<AtomicUsize>,
}

impl Lossy {
    /// Starts one in front of this address, for clients that make a connection for each request.
    ///
    /// # Errors
    /// There is no port.
    pub fn before(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let (address, lost) = (listener.local_addr()?, Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&lost);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let count = Arc::clone(&count);
                // Whatever breaks, breaks for the client, too.
                std::thread::spawn(move || pass(client, upstream, &count));
            }
        });
        Ok(Self { address, lost })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it loses so many answers.
    pub fn lose(&self, answers: usize) {
        self.lost.store(answers, Ordering::SeqCst);
    }
}

fn pass(mut client: TcpStream, upstream: SocketAddr, lost: &AtomicUsize) -> Result<()> {
    let mut server = TcpStream::connect(upstream)?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || copy(&mut from, &mut to));
    let mut answer = [0; 4096];
    let n = server.read(&mut answer)?;
    // There is an answer, so the request was delivered.
    if lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
        server.shutdown(Shutdown::Both)?;
    } else {
        client.write_all(&answer[..n])?;
        copy(&mut server, &mut client)?;
    }
    Ok(client.shutdown(Shutdown::Both)?)
}
