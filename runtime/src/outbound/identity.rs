//! Our own certificate, by which the others know us.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    client::ResolvesClientCert,
    crypto::aws_lc_rs,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::http::{TlsConfig, load_pair};

/// How old what was read may be: a renewed certificate is taken up within this time.
const RELOAD: Duration = Duration::from_secs(60);

/// A certificate and its key, from files. Cheap to clone.
#[derive(Clone)]
pub struct ClientIdentity(Arc<Inner>);

struct Inner {
    files: TlsConfig,
    read: Mutex<(Instant, Arc<CertifiedKey>)>,
}

impl ClientIdentity {
    /// Reads the files. Blocks on them.
    ///
    /// # Errors
    /// They can not be read, or do not go together; in one line.
    pub fn load(files: &TlsConfig) -> Result<Self, String> {
        let read = Mutex::new((Instant::now(), read(files)?));
        Ok(Self(Arc::new(Inner { files: files.clone(), read })))
    }

    /// What to show in a handshake. Blocks on the files if they were not looked at for a minute; while they do not go
    /// together, what was read before stays.
    pub(super) fn current(&self) -> Arc<dyn ResolvesClientCert> {
        let mut last = self.0.read.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.elapsed() > RELOAD {
            last.0 = Instant::now();
            match read(&self.0.files) {
                Ok(renewed) => last.1 = renewed,
                Err(error) => {
                    tracing::error!(%error, "the renewed client certificate is not taken up; the old one stays");
                }
            }
        }
        Arc::new(SingleCertAndKey::from(Arc::clone(&last.1)))
    }
}

fn read(files: &TlsConfig) -> Result<Arc<CertifiedKey>, String> {
    let (chain, key) = load_pair(files).map_err(|e| e.to_string())?;
    let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    pair.map(Arc::new).map_err(|e| format!("certificate and key can not be used: {e}"))
}
