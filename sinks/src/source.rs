//! Where a worker reads from: a topic of Kafka, or in tests a list of records.

use std::time::Duration;

use keyferry_runtime::{
    clients::is_absence,
    kafka::{Isolation, Kafka},
    tail::{Next, Start, Tail},
};

/// A topic that can be opened again and again.
pub trait Topic: Send {
    /// Its name.
    fn name(&self) -> &str;
    /// Opens it at `offset`, or at its first record if that is later. Blocks for up to some seconds.
    ///
    /// # Errors
    /// Why it can not be read, in one line.
    fn open(&self, offset: i64) -> Result<Opened, String>;
}

/// A topic that is being read.
pub struct Opened {
    /// The records.
    pub source: Box<dyn Source>,
    /// Whether what stood between the offset asked for and the first record is gone; it may have been markers only.
    pub gap: bool,
    /// Where the topic ended then.
    pub end: i64,
}

/// Records, one after the other.
pub trait Source {
    /// The next one. Blocks for up to `timeout`.
    ///
    /// # Errors
    /// Why it can not be read, in one line.
    fn next(&mut self, timeout: Duration) -> Result<Next, String>;
    /// Whether there is nothing left to read. Blocks for up to some seconds.
    ///
    /// # Errors
    /// Why that can not be told.
    fn at_end(&self) -> Result<bool, String>;
}

/// A topic of Kafka, read committed.
pub struct KafkaTopic {
    /// Makes the consumers.
    pub kafka: Kafka,
    /// Its name.
    pub name: String,
}

impl Topic for KafkaTopic {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&self, offset: i64) -> Result<Opened, String> {
        let open = |start| {
            let tail = Tail::open(&self.kafka, &self.name, Isolation::Committed, start);
            tail.map_err(|e| match e {
                // Then an operator has to make it.
                e if is_absence(&e) => self.kafka.fatal(&self.name, &e).to_string(),
                e => e.to_string(),
            })
        };
        let tail = open(Start::Offset(offset))?;
        let (first, end) = tail.bounds().map_err(|e| e.to_string())?;
        if offset > end {
            return Err(format!(
                "the topic ends at {end}, the store has it up to {offset}: was the topic made anew?"
            ));
        }
        let gap = offset < first;
        let tail = if gap { open(Start::Offset(first))? } else { tail };
        Ok(Opened { source: Box::new(tail), gap, end })
    }
}

impl Source for Tail {
    fn next(&mut self, timeout: Duration) -> Result<Next, String> {
        Self::next(self, timeout).map_err(|e| e.to_string())
    }

    fn at_end(&self) -> Result<bool, String> {
        let (_, end) = self.bounds().map_err(|e| e.to_string())?;
        Ok(self.position() >= end)
    }
}
