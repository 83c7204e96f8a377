//! The topic that uploads are written to, behind a trait: the rest of the gateway can be tested without a broker.

use std::pin::Pin;

use keyferry_runtime::{
    codec::Codec,
    producer::{ProduceError, Producer},
};
use keyferry_schemas::{records::Upload, topics};

/// What is known once an upload was written, or was not.
pub(crate) type Written<'a> = Pin<Box<dyn Future<Output = Result<i64, ProduceError>> + Send + 'a>>;

/// Where uploads go.
pub(crate) trait UploadLog: Send + Sync {
    /// Writes one to the topic of its origin and tells its offset.
    fn write(&self, upload: Upload) -> Written<'_>;
}

/// `keyferry.uploads.<cc>`.
pub(crate) struct Topics {
    pub(crate) producer: Producer,
    pub(crate) codec: Codec,
}

impl UploadLog for Topics {
    fn write(&self, upload: Upload) -> Written<'_> {
        Box::pin(async move {
            let record = self.codec.encode(&upload);
            let (topic, key) = (topics::uploads(upload.origin), upload.origin);
            // The record holds the body now; a second copy would lie in memory for as long as the broker takes.
            drop(upload);
            self.producer.send(&topic, key.as_str().as_bytes(), &record, &[]).await
        })
    }
}
