//! An application that prepares by copying, and panics over what says so.

use keyferry_schemas::{
    records::{Head, LedgerEntry},
    time::Millis,
    world::World,
};

use super::{super::Output, *};

struct Copying;

impl Application for Copying {
    type State = ();
    type Prepared = (i64, bool);

    fn blank(&self, _: Country, _: i64) {}

    fn replay(&self, (): &mut (), _: &LedgerEntry, _: bool) -> Result<(), String> {
        Ok(())
    }

    fn restored(&self, (): &mut (), _: Option<&Head>, _: bool) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&self, _: Country, record: &Record, _: &Network) -> Result<(i64, bool), String> {
        assert!(record.key.is_none(), "what the test wants to see contained");
        let ahead = std::thread::current().name() == Some("prepare");
        Ok((record.offset, ahead))
    }

    fn step(
        &self,
        (): &mut (),
        _: &Record,
        _: &(i64, bool),
        _: u32,
        _: &Network,
        _: &mut Vec<Output>,
    ) -> Result<(), String> {
        Ok(())
    }

    fn last_checkpoint(&self, (): &()) -> Millis {
        Millis(0)
    }

    fn checkpoint(&self, (): &mut (), _: Millis, _: &Network, _: &mut Vec<Output>) -> Result<(), String> {
        Ok(())
    }

    fn head(&self, (): &()) -> Head {
        unreachable!("nothing is decided here")
    }

    fn settle(&self, (): &mut (), _: bool) {}
}

fn record(offset: i64, bytes: usize, bad: bool) -> Record {
    let key = bad.then(|| "bad".into());
    Record { offset, timestamp: Millis(0), key, value: Some(vec![0; bytes].into()), headers: Vec::new() }
}

struct Loop {
    preparation: Preparation<Copying>,
    origins: BTreeMap<Country, Origin<Copying>>,
    network: Arc<Network>,
}

impl Loop {
    fn new(threads: usize, records: Vec<Record>) -> Result<Self, Box<dyn std::error::Error>> {
        let network = World::new(&["DE", "FR"], Millis(1_790_000_000_000).timestamp())?.network()?;
        let now = std::time::Instant::now();
        let mut origin = Origin::assigned(Default::default(), now);
        records.into_iter().for_each(|record| origin.push(record, now));
        let origins = [("DE".parse()?, origin)].into();
        Ok(Self { preparation: Preparation::start(&Arc::new(Copying), threads), origins, network })
    }

    fn ahead(&mut self) -> usize {
        self.preparation.ahead(&mut self.origins, Some(&self.network));
        self.origins.values().map(|o| o.begun).sum()
    }

    fn take(&mut self, at: usize) -> Result<(i64, bool), String> {
        let (name, origin) = self.origins.iter_mut().next().ok_or("an origin")?;
        self.preparation.take(*name, &mut origin.queue[at], &self.network)
    }
}

#[test]
fn each_record_gets_its_own_answer_and_a_panic_is_that_of_one() -> Result<(), Box<dyn std::error::Error>> {
    for threads in [0, 1, 2, 5] {
        let records = (0..50).map(|i| record(i, 10, i % 7 == 3)).collect();
        let mut it = Loop::new(threads, records)?;
        assert_eq!(it.ahead(), if threads < 2 { 0 } else { 50 });
        for i in 0..50 {
            let taken = it.take(i);
            if i % 7 == 3 {
                assert!(taken.is_err_and(|why| why.contains("panicked")), "{i}");
            } else {
                assert_eq!(taken, Ok((i as i64, threads > 1)), "{i}");
            }
        }
        // A second attempt has nothing that was prepared, and does it here.
        assert_eq!(it.take(0), Ok((0, false)));
    }
    Ok(())
}

#[test]
fn what_is_prepared_ahead_is_bounded_and_makes_room_as_it_is_taken() -> Result<(), Box<dyn std::error::Error>>
{
    for (bytes, most) in [(1 << 20, 8), (1, 128)] {
        let mut it = Loop::new(2, (0..300).map(|i| record(i, bytes, false)).collect())?;
        assert_eq!(it.ahead(), most, "{bytes}");
        assert_eq!(it.take(0), Ok((0, true)));
        assert_eq!(it.take(1), Ok((1, true)));
        assert_eq!(it.ahead(), most + 2, "{bytes}");
        // Committed records leave the queue, and it goes on behind those that were begun.
        assert_eq!(it.origins.values_mut().map(|o| o.done(2)).count(), 1);
        assert_eq!(it.ahead(), most, "{bytes}");
        assert_eq!(it.take(0), Ok((2, true)));
        // Origins that are given away leave nothing behind.
        it.origins.clear();
        assert_eq!(it.preparation.ahead.load(Ordering::Relaxed), 0);
    }
    Ok(())
}
