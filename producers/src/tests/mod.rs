//! The gateway over real HTTP, with a log and a pipeline that do what each test asks. No broker.

mod fixture;
mod refusals;
mod uploads;
