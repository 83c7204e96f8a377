//! Ways in. Today one: the gateway, where national backends upload over HTTPS as they did to EFGS.
//!
//! | file | what it holds |
//! |---|---|
//! | `gateway` | the gateway as a whole: start, routes, end |
//! | `upload` | `POST /diagnosiskeys/upload`, step by step: the page to read first |
//! | `check` | `POST /diagnosiskeys/check`: what would become of an upload; nothing is written |
//! | `head`, `body` | what the headers say; the body, bounded in size and time |
//! | `limits` | how much a member may send at a time |
//! | `log` | the topic that uploads are written to |
//! | `ledgers` | the ledgers of all members, followed |
//! | `decisions` | what they said lately, and who waits for it |
//! | `answer` | an entry of the ledger as an answer in the words of EFGS |
//! | `receipts` | `GET /diagnosiskeys/receipts/{id}` |
//! | `config`, `metrics` | the section `gateway:`; what is counted |
//!
//! The gateway decides nothing that needs state: it refuses what it can not read, puts the rest on the topic of its
//! origin exactly as received, and answers with what the pipeline wrote about it into the ledger.

mod answer;
mod body;
mod check;
mod config;
mod decisions;
mod gateway;
mod head;
mod ledgers;
mod limits;
mod log;
mod metrics;
mod receipts;
mod upload;

pub use config::GatewayConfig;
pub use gateway::Gateway;
// For the fuzz targets.
#[doc(hidden)]
pub use head::Head;

#[cfg(test)]
mod tests;
