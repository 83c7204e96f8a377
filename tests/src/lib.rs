//! Whole-system tests on real Kafka, and what they share.
//!
//! | module | what it holds |
//! |---|---|
//! | [`backend`] | a national backend, over mutual TLS |
//! | [`mod@bench`] | the benchmarks |
//! | [`broker`] | one broker for the tests of a process |
//! | [`bucket`] | a bucket of S3's kind that fails as it is told |
//! | [`callee`] | a subscriber to callbacks |
//! | [`chains`] | chains of batches, to be put on topics by hand |
//! | [`clocks`] | clocks that are wrong, and roles that go by them |
//! | [`cluster`] | what operators, brokers and accidents do to topics and offsets |
//! | [`downloads`] | distribution services in processes of their own, and a client that walks their downloads |
//! | [`exchange`] | all roles behind two doors at once: mutual TLS, and the headers of a proxy |
//! | [`foreign`] | programs that no one here wrote, to sign and to verify |
//! | [`front`] | a hub with a processor and a gateway, spoken to over HTTP |
//! | [`fuzz`] | what must hold of the decoders of what strangers send: the fuzz targets |
//! | [`hold`] | places of the transaction loop at which an instance is held |
//! | [`hub`] | a hub of a test's own: broker, topics, network document, processors in threads |
//! | [`lone`] | roles in processes of their own, to be stopped and killed |
//! | [`lossy`] | a proxy that loses answers |
//! | [`model`] | what the countries must receive, said in another way than the pipeline says it |
//! | [`operator`] | what an operator has: files, and the program |
//! | [`processor`] | processors of a hub, in threads |
//! | [`program`] | the program itself, as an operator runs it |
//! | [`raw`] | requests to a broker without a library, for what no library sends |
//! | [`registry`] | a schema registry of a test's own |
//! | [`role`] | the program in a role, in a process of its own |
//! | [`service`] | distribution services in this process |
//! | [`soak`] | the fault harness: real roles under load while things break, compared with a model |
//! | [`sim`] | the transaction loop over a simulated log, history after history |
//! | [`subscriber`] | the subscriber in Python |
//! | [`trio`] | a cluster of three brokers, and what can befall it |
//! | [`wait`] | waiting for what has to come about |

pub mod backend;
pub mod bench;
pub mod broker;
pub mod bucket;
pub mod callee;
pub mod chains;
pub mod clocks;
pub mod cluster;
pub mod downloads;
pub mod exchange;
pub mod foreign;
pub mod front;
pub mod fuzz;
pub mod hold;
pub mod hub;
pub mod lone;
pub mod lossy;
pub mod model;
pub mod operator;
pub mod processor;
pub mod program;
pub mod raw;
pub mod registry;
pub mod role;
pub mod service;
pub mod sim;
pub mod soak;
pub mod subscriber;
pub mod trio;
pub mod wait;
