//! The gateway over real HTTP, with a log and a pipeline that do what each test asks. A broker only where there are
//! ledgers to follow.

mod fixture;
mod following;
mod refusals;
mod slow;
mod trials;
mod uploads;
