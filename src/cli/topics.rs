//! `keyferry topics`: what stands in Kafka, and what should.

use clap::{Args, Subcommand};
use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    exit::Fatal,
    topics::{self, Found, TopicsConfig, apply},
};
use keyferry_schemas::{
    country::Country,
    network::{MemberState, Network},
    time::Millis,
    topics::{Topic, of_member, shared},
};

use super::{Connection, KafkaArgs, network::history, out, table};

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Creates topics that are missing and alters settings that differ: the shared ones, those of every member of the
    /// network document on Kafka (needs --anchor), and those of --country
    #[command(after_help = "Example: keyferry topics apply --config keyferry.yaml --dry-run")]
    Apply(Apply),
    /// Lists the topics of Keyferry, and how they differ from what they should be
    #[command(after_help = "Example: keyferry topics list --bootstrap localhost:9092")]
    List(KafkaArgs),
}

/// What `apply` takes.
#[derive(Args)]
pub struct Apply {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    safety: Safety,
    /// A country whose topics are made as well, before it is a member
    #[arg(long = "country", value_name = "CC")]
    countries: Vec<Country>,
    /// Says what would be changed, and has the broker check it
    #[arg(long)]
    dry_run: bool,
}

/// How safely topics are kept.
#[derive(Args, Debug, Clone, Copy)]
pub struct Safety {
    /// Copies of each new topic; the broker's default unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    replication_factor: Option<i32>,
    /// Copies that must have a record before it counts as written
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    min_insync_replicas: Option<i32>,
}

impl Safety {
    /// Flags go before the file.
    pub(crate) fn over(self, config: TopicsConfig) -> TopicsConfig {
        TopicsConfig {
            replication_factor: self.replication_factor.unwrap_or(config.replication_factor),
            min_insync_replicas: self.min_insync_replicas.or(config.min_insync_replicas),
        }
    }
}

/// Runs a command.
///
/// # Errors
/// [`Fatal`], for example if a topic can not be made what it has to be.
pub fn run(command: &Command) -> Result<(), Fatal> {
    let config = match command {
        Command::Apply(args) => &args.kafka.file,
        Command::List(args) => &args.file,
    };
    if config.only_checked()? {
        return Ok(());
    }
    match command {
        Command::Apply(args) => {
            let connection = args.kafka.connect()?;
            let mut wanted = shared();
            if connection.has_anchors() {
                let published = history::read(&connection)?;
                wanted
                    .extend(published.last().iter().flat_map(|p| of_members(&p.network, SystemClock.now())));
            }
            wanted.extend(args.countries.iter().flat_map(|c| of_member(*c)));
            wanted.sort_by(|a, b| a.name.cmp(&b.name));
            wanted.dedup();
            change(&connection, &wanted, args.safety, args.dry_run)
        }
        Command::List(args) => list(&args.connect()?),
    }
}

/// The topics of all members but those that have left by `now`: theirs are purged. Who is going to leave still needs
/// them, and who is going to join will.
pub(crate) fn of_members(network: &Network, now: Millis) -> Vec<Topic> {
    let stays = network.countries().filter(|c| network.state(*c, now) != MemberState::Left);
    stays.flat_map(of_member).collect()
}

/// Applies and says what was changed.
pub(crate) fn change(
    connection: &Connection,
    wanted: &[Topic],
    safety: Safety,
    dry_run: bool,
) -> Result<(), Fatal> {
    let changes = apply(&connection.kafka, wanted, safety.over(connection.topics), dry_run)?;
    let would = if dry_run { "would " } else { "" };
    changes.iter().try_for_each(|change| out(format_args!("{would}{change}")))?;
    if changes.is_empty() {
        out(format_args!("{} topics are as they should be", wanted.len()))
    } else {
        Ok(())
    }
}

fn list(connection: &Connection) -> Result<(), Fatal> {
    let found = topics::list(&connection.kafka)?;
    if found.is_empty() {
        return out(
            "there is no topic of Keyferry yet; `keyferry network apply` and `keyferry topics apply` create them",
        );
    }
    let rows: Vec<_> = found
        .iter()
        .map(|t| {
            let setting = |key: &str| t.settings.get(key).cloned().unwrap_or_else(|| "-".into());
            let cells = [t.name.clone(), t.partitions.to_string(), t.replicas.to_string()];
            let [name, partitions, replicas] = cells;
            [name, partitions, replicas, setting("retention.ms"), differences(t)]
        })
        .collect();
    out(table(["topic", "partitions", "replicas", "retention.ms", "differs"], &rows))
}

fn differences(found: &Found) -> String {
    let country = found.name.rsplit('.').next().and_then(|cc| Country::from_lower(cc).ok());
    let known =
        shared().into_iter().chain(country.into_iter().flat_map(of_member)).find(|t| t.name == found.name);
    let Some(wanted) = known else { return "not a topic that Keyferry makes".into() };
    let settings = wanted.settings.iter().filter(|(key, value)| found.settings.get(*key) != Some(value));
    let mut all: Vec<_> = settings.map(|(key, value)| format!("{key} should be {value}")).collect();
    if found.partitions != 1 {
        all.push("partitions should be 1".into());
    }
    if all.is_empty() { "-".into() } else { all.join(", ") }
}

#[cfg(test)]
#[cfg(feature = "embedded-broker")]
mod tests {
    use jiff::Timestamp;
    use keyferry_schemas::{network::StateSince, world::World};

    use super::*;

    #[test]
    fn a_member_has_topics_until_the_day_it_leaves() {
        let now = Timestamp::constant(1_800_000_000, 0);
        let day = jiff::SignedDuration::from_hours(24);
        let mut world = World::new(&["DE", "FR"], now).unwrap();
        world.member_mut("FR").unwrap().states.push(StateSince { state: MemberState::Left, from: now + day });
        let network = world.network().unwrap();
        let names = |at: Timestamp| {
            of_members(&network, at.into()).iter().filter(|t| t.name.ends_with(".fr")).count()
        };
        assert_eq!((names(now), names(now + day)), (4, 0));
    }
}
