//! The one place that decides what is done about a fault.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// A fault of a client: what it says, and what helps.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// In one line.
    pub what: String,
    /// What helps.
    pub remedy: Remedy,
}

impl From<KafkaError> for Fault {
    fn from(error: KafkaError) -> Self {
        Self { what: error.to_string(), remedy: remedy(&error) }
    }
}

/// What helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The same call again.
    Retry,
    /// The transaction is aborted, and its records are decided again.
    Abort,
    /// The clients are dropped and made anew, and every state with them: somebody else may own the origins now.
    Rebuild,
    /// The process ends: trying again changes nothing until an operator does something.
    Exit,
}

/// The remedy for a fault of a Kafka client.
pub(super) fn remedy(error: &KafkaError) -> Remedy {
    if let KafkaError::Transaction(e) = error {
        return match e.code() {
            Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::UnknownProducerId => {
                Remedy::Rebuild
            }
            code if is_for_operators(code) => Remedy::Exit,
            _ if e.is_fatal() => Remedy::Rebuild,
            _ if e.txn_requires_abort() => Remedy::Abort,
            _ if e.is_retriable() => Remedy::Retry,
            _ => Remedy::Abort,
        };
    }
    match error.rdkafka_error_code() {
        Some(code) if is_for_operators(code) => Remedy::Exit,
        Some(Code::Fatal | Code::Fenced | Code::ProducerFenced | Code::FencedInstanceId) => Remedy::Rebuild,
        // What was to be read next is not there: the take-over finds out why, and names the origin.
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Remedy::Rebuild,
        _ => Remedy::Abort,
    }
}

fn is_for_operators(code: Code) -> bool {
    matches!(
        code,
        Code::TransactionalIdAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication
            | Code::InvalidTransactionTimeout
            | Code::UnsupportedVersion
    )
}
