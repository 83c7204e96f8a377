//! From a name to addresses that may be connected to. It stands in the connector itself, so that what was looked at is
//! what is connected to: a name that has another address the next time is looked at the next time.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures::future::BoxFuture;
use ipnet::IpNet;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use super::not_public;

/// Most addresses of one name that are looked at; who has more is not served by looking at them.
const MAX_ADDRESSES: usize = 64;

/// Finds the addresses of a name.
pub trait Resolver: Send + Sync {
    /// All of them.
    ///
    /// # Errors
    /// There is no such name, or nobody answers.
    fn resolve(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The resolver of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.map(|a| a.ip()).collect()) })
    }
}

/// Why nobody connects to a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The address names no host.
    #[error("it names no host")]
    NoHost,
    /// Its name has no address.
    #[error("{name} has no address: {reason}")]
    Unresolved {
        /// The name.
        name: String,
        /// What the resolver says.
        reason: String,
    },
    /// It has an address that is not public.
    #[error("{host} has the address {address}, which is {what} and not public")]
    NotPublic {
        /// Name or address.
        host: String,
        /// That address.
        address: IpAddr,
        /// What it is instead.
        what: &'static str,
    },
    /// It has so many addresses that they are not looked at.
    #[error("{name} has more than {MAX_ADDRESSES} addresses")]
    TooMany {
        /// The name.
        name: String,
    },
}

/// Lets connections go to public addresses, and to networks that the operator allows. Cheap to clone.
#[derive(Clone)]
pub struct Guard {
    resolver: Arc<dyn Resolver>,
    allowed: Arc<[IpNet]>,
}

impl Guard {
    /// Resolves by `resolver`; `allowed` networks may be connected to though they are not public.
    #[must_use]
    pub fn new(resolver: Arc<dyn Resolver>, allowed: &[IpNet]) -> Self {
        Self { resolver, allowed: allowed.into() }
    }

    /// Whether the host of `url` may be connected to now. Asks the resolver, unless an address stands there.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn check(&self, url: &Url) -> Result<(), Refused> {
        self.check_literal(url)?;
        match url.domain() {
            Some(name) => self.addresses(name).await.map(drop),
            None => Ok(()),
        }
    }

    /// The part of [`Guard::check`] that asks nobody: for an address nothing is resolved, so a connector never asks.
    pub(super) fn check_literal(&self, url: &Url) -> Result<(), Refused> {
        let host = url.host_str().ok_or(Refused::NoHost)?;
        if url.domain().is_some() {
            return Ok(());
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse();
        self.admit(host, address.map_err(|_| Refused::NoHost)?)
    }

    /// Every address of `name`, none of which is forbidden: one that is makes all of them suspect.
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Refused> {
        let unresolved = |reason: String| Refused::Unresolved { name: name.to_owned(), reason };
        let found = self.resolver.resolve(name.to_owned()).await.map_err(|e| unresolved(e.to_string()))?;
        if found.is_empty() {
            return Err(unresolved("the answer is empty".into()));
        }
        if found.len() > MAX_ADDRESSES {
            return Err(Refused::TooMany { name: name.to_owned() });
        }
        found.iter().try_for_each(|address| self.admit(name, *address))?;
        Ok(found)
    }

    fn admit(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        match not_public(address) {
            Some(what) if !self.allowed.iter().any(|net| net.contains(&address)) => {
                Err(Refused::NotPublic { host: host.to_owned(), address, what })
            }
            _ => Ok(()),
        }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let addresses = guard.addresses(name.as_str()).await?;
            // The port of the request takes the place of 0.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Names(BTreeMap<&'static str, Vec<&'static str>>);

    impl Resolver for Names {
        fn resolve(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
            let found = self.0.get(name.as_str()).map(|all| all.iter().map(|a| a.parse().unwrap()).collect());
            Box::pin(async move { found.ok_or_else(|| io::Error::other("no such name")) })
        }
    }

    async fn check(url: &str, allowed: &[&str]) -> Result<(), Refused> {
        let names = BTreeMap::from([
            ("public.example", vec!["192.0.1.1", "2a00::1"]),
            ("mixed.example", vec!["192.0.1.1", "10.0.0.1"]),
            ("inside.example", vec!["10.0.0.1"]),
            ("empty.example", vec![]),
            ("crowd.example", vec!["192.0.1.1"; MAX_ADDRESSES + 1]),
            ("localhost", vec!["127.0.0.1", "::1"]),
        ]);
        let allowed: Vec<IpNet> = allowed.iter().map(|net| net.parse().unwrap()).collect();
        Guard::new(Arc::new(Names(names)), &allowed).check(&url.parse().unwrap()).await
    }

    #[tokio::test]
    async fn a_name_counts_only_if_every_address_is_public() {
        assert_eq!(check("https://public.example/a", &[]).await, Ok(()));
        for name in ["mixed.example", "inside.example", "localhost"] {
            let refused = check(&format!("https://{name}/"), &[]).await;
            assert!(matches!(&refused, Err(Refused::NotPublic { host, .. }) if host == name), "{refused:?}");
        }
        for name in ["empty.example", "nowhere.example"] {
            let refused = check(&format!("https://{name}/"), &[]).await;
            assert!(matches!(refused, Err(Refused::Unresolved { .. })), "{refused:?}");
        }
        assert!(matches!(check("https://crowd.example/", &[]).await, Err(Refused::TooMany { .. })));
    }

    #[tokio::test]
    async fn an_address_in_any_dress_is_seen() {
        let dresses = [
            "127.0.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "017700000001",
            "127.1",
            "127.0.0.1.",
            "%31%32%37.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "①②⑦.0.0.1",
        ];
        for dress in dresses {
            let refused = check(&format!("https://{dress}/"), &[]).await;
            assert!(matches!(refused, Err(Refused::NotPublic { .. })), "{dress}: {refused:?}");
        }
        assert_eq!(check("https://192.0.1.1/", &[]).await, Ok(()));
        assert_eq!(check("https://[2a00::1]:8443/", &[]).await, Ok(()));
    }

    #[tokio::test]
    async fn an_operator_may_allow_a_network_and_gets_no_more() {
        assert_eq!(check("https://inside.example/", &["10.0.0.0/24"]).await, Ok(()));
        assert_eq!(check("https://10.0.0.1/", &["10.0.0.0/24"]).await, Ok(()));
        assert!(check("https://inside.example/", &["10.0.1.0/24"]).await.is_err());
        assert!(check("https://localhost/", &["10.0.0.0/8", "127.0.0.0/8"]).await.is_err(), "::1 is not");
    }
}
