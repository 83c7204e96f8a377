//! How far a consumer group is, seen from outside: by the offsets that it has committed. Nothing of its output is read,
//! which would take the time that is to be measured.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use keyferry_runtime::kafka::Kafka;
use keyferry_schemas::{country::Country, topics};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Offsets by origin, in the order of the origins.
pub type Offsets = Vec<i64>;

/// A group that reads upload topics.
pub struct Progress {
    reader: BaseConsumer,
    topics: Vec<String>,
}

impl Progress {
    /// Looks at the group of this role.
    ///
    /// # Errors
    /// What librdkafka says of the configuration.
    pub fn of(kafka: &Kafka, origins: &[Country]) -> Result<Self> {
        let mut config = kafka.group_consumer_config();
        // An offset counts once it is committed; what a transaction is about to commit must not hold up the answer.
        config.set("isolation.level", "read_uncommitted");
        let topics = origins.iter().map(|origin| topics::uploads(*origin)).collect();
        Ok(Self { reader: config.create()?, topics })
    }

    /// What the group has committed; 0 where it has not.
    ///
    /// # Errors
    /// The broker does not say.
    pub fn committed(&self) -> Result<Offsets> {
        let mut asked = TopicPartitionList::new();
        for topic in &self.topics {
            asked.add_partition(topic, 0);
        }
        let offsets = self.reader.committed_offsets(asked, TIMEOUT)?;
        let of = |topic: &String| {
            let found = offsets.find_partition(topic, 0).context("an answer for each topic")?;
            Ok(if let Offset::Offset(at) = found.offset() { at } else { 0 })
        };
        self.topics.iter().map(of).collect()
    }

    /// Where the upload topics end.
    ///
    /// # Errors
    /// The broker does not say.
    pub fn ends(&self) -> Result<Offsets> {
        self.topics.iter().map(|topic| Ok(self.reader.fetch_watermarks(topic, 0, TIMEOUT)?.1)).collect()
    }

    /// Puts the group, which has no members, to these offsets.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn rewind(&self, to: &Offsets) -> Result<()> {
        let mut offsets = TopicPartitionList::new();
        for (topic, at) in self.topics.iter().zip(to) {
            offsets.add_partition_offset(topic, 0, Offset::Offset(*at))?;
        }
        Ok(self.reader.commit(&offsets, CommitMode::Sync)?)
    }

    /// Watches the group on its way to these ends.
    ///
    /// # Errors
    /// It is not there within five minutes.
    pub fn watch(&self, ends: &Offsets) -> Result<Course> {
        let begun = Instant::now();
        let mut course = Course { ends: ends.clone(), seen: Vec::new() };
        loop {
            let (at, offsets) = (begun.elapsed(), self.committed()?);
            ensure!(at < Duration::from_secs(300), "the group stands at {offsets:?} of {ends:?}");
            let done = offsets == *ends;
            if course.seen.last().is_none_or(|(_, last)| *last != offsets) {
                course.seen.push((at, offsets));
            }
            if done {
                return Ok(course);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// When it stood where.
#[derive(Debug)]
pub struct Course {
    ends: Offsets,
    seen: Vec<(Duration, Offsets)>,
}

impl Course {
    /// Records a second from the first decision that was seen to the last one.
    ///
    /// # Errors
    /// It was over at once.
    pub fn rate(&self) -> Result<f64> {
        self.between(|offsets| offsets == &self.ends)
    }

    /// Records a second for as long as every origin had some to go: until then all instances have work.
    ///
    /// # Errors
    /// It was over at once.
    pub fn busy_rate(&self) -> Result<f64> {
        self.between(|offsets| offsets.iter().zip(&self.ends).any(|(at, end)| at == end))
    }

    fn between(&self, is_over: impl Fn(&Offsets) -> bool) -> Result<f64> {
        let (over, to) = self.seen.iter().find(|(_, offsets)| is_over(offsets)).context("it is not over")?;
        // The first look shows where it stood before, the second its first decisions. A short run may be over by then, and
        // is counted from the start.
        let second = self.seen.get(1).filter(|(at, _)| at < over);
        let (begun, from) = second.or(self.seen.first()).context("nothing was seen")?;
        let records = to.iter().sum::<i64>() - from.iter().sum::<i64>();
        let seconds = (*over - *begun).as_secs_f64();
        ensure!(seconds > 0.0, "there was nothing to decide");
        Ok(records as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_count_from_the_first_decision() {
        let at = |ms, offsets: [i64; 2]| (Duration::from_millis(ms), offsets.to_vec());
        let seen =
            vec![at(0, [3, 3]), at(500, [4, 3]), at(1500, [8, 6]), at(2500, [13, 13]), at(4500, [13, 23])];
        let course = Course { ends: vec![13, 23], seen };
        assert_eq!(course.rate().unwrap(), 29.0 / 4.0);
        assert_eq!(course.busy_rate().unwrap(), 19.0 / 2.0);
        let short = Course { ends: vec![1, 1], seen: vec![at(0, [0, 0]), at(500, [1, 1])] };
        assert_eq!(short.rate().unwrap(), 4.0);
        assert!(Course { ends: vec![1, 1], seen: vec![at(0, [1, 1])] }.rate().is_err());
    }
}
