//! One country: a notifier for each of its subscriptions, as long as this instance is in charge of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

use keyferry_runtime::shutdown::Shutdown;
use keyferry_schemas::country::Country;

use super::{
    Tools,
    book::{Mark, Subscription},
    notifier::Notifier,
    target::{CallbackId, Target},
};
use crate::shelf::Shelf;

/// Between two attempts to read a book to its end.
const RETRY: Duration = Duration::from_secs(5);

/// The running desk of a country.
pub(crate) struct Desk {
    /// Held by whoever changes subscriptions, so that they are counted rightly.
    pub(crate) writing: Arc<tokio::sync::Mutex<()>>,
    stop: Shutdown,
    task: JoinHandle<()>,
}

/// A notifier that runs.
struct Running {
    target: Target,
    stop: Shutdown,
    task: JoinHandle<()>,
}

struct Work {
    tools: Arc<Tools>,
    shelf: Arc<Shelf>,
    running: BTreeMap<CallbackId, Running>,
    /// Whether the book was read to its end since this instance is in charge.
    in_charge: bool,
}

impl Desk {
    /// Starts it, inside tokio.
    pub(crate) fn start(tools: Arc<Tools>, shelf: Arc<Shelf>) -> Self {
        let stop = Shutdown::new();
        let work = Work { tools, shelf, running: BTreeMap::new(), in_charge: false };
        let task = tokio::spawn(work.run(stop.clone()));
        Self { writing: Arc::default(), stop, task }
    }

    /// Ends its notifiers and waits for them.
    pub(crate) async fn stop(self) {
        self.stop.trip();
        // One that panicked has ended as well.
        let _ = self.task.await;
    }
}

impl Work {
    async fn run(mut self, stop: Shutdown) {
        let country = self.shelf.country();
        let mut changes = self.tools.register.changes(country);
        let mut ours = self.tools.register.ours();
        while !stop.is_tripped() {
            changes.mark_unchanged();
            let is_ours = ours.borrow_and_update().contains(&country);
            let done = self.arrange(is_ours).await;
            tokio::select! {
                () = stop.wait() => (),
                () = changed(&mut changes) => (),
                () = changed(&mut ours) => (),
                () = tokio::time::sleep(RETRY), if !done => (),
            }
        }
        self.tools.metrics.in_charge(country, false);
        self.reconcile(&BTreeMap::new()).await;
    }

    /// Lets those notifiers run that have to; `false` if it has to be tried again.
    async fn arrange(&mut self, is_ours: bool) -> bool {
        let country = self.shelf.country();
        // What the one before wrote is read first, so that little is repeated.
        if is_ours && !self.in_charge && self.tools.register.catch_up(country).await.is_err() {
            return false;
        }
        if is_ours != self.in_charge {
            self.in_charge = is_ours;
            self.tools.metrics.in_charge(country, is_ours);
            tracing::info!(destination = %country, is_ours, "who calls its subscribers has changed");
        }
        let all = if is_ours {
            self.tools.register.read(country, |book| book.subscriptions().clone()).unwrap_or_default()
        } else {
            BTreeMap::new()
        };
        self.reconcile(&all).await;
        true
    }

    async fn reconcile(&mut self, wanted: &BTreeMap<CallbackId, Subscription>) {
        let over = |id: &CallbackId, running: &Running| {
            running.task.is_finished() || wanted.get(id).is_none_or(|w| w.target != running.target)
        };
        let ended: Vec<_> = self.running.extract_if(.., |id, running| over(id, running)).collect();
        ended.iter().for_each(|(_, running)| running.stop.trip());
        for (_, running) in ended {
            // One that panicked has ended as well.
            let _ = running.task.await;
        }
        for (id, subscription) in
            wanted.iter().filter(|(id, _)| !self.running.contains_key(*id)).collect::<Vec<_>>()
        {
            let from = self.reached(self.shelf.country(), id).unwrap_or(subscription.after);
            let (target, stop) = (subscription.target.clone(), Shutdown::new());
            let notifier = Notifier {
                tools: Arc::clone(&self.tools),
                shelf: Arc::clone(&self.shelf),
                id: id.clone(),
                target: target.clone(),
            };
            let task = tokio::spawn(notifier.run(from, stop.clone()));
            self.running.insert(id.clone(), Running { target, stop, task });
        }
    }

    fn reached(&self, country: Country, id: &CallbackId) -> Option<Mark> {
        self.tools.register.read(country, |book| book.reached(id)).flatten()
    }
}

/// Waits for a change; for ever once nobody can tell of any.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
