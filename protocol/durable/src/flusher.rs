//! One barrier for many waiting writers.
//!
//! A barrier costs the same for one write as for hundreds. One thread owns it: while a barrier is under way the next
//! writes queue up, and the next barrier takes all of them. Async callers wrap [`FlusherHandle::commit_then`] with a
//! oneshot channel; this crate knows no async runtime.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use crate::error::Error;
use crate::store::{Sequence, Store, Tree};

/// How many writes may wait. A writer that finds the queue full is told so; more would only wait longer.
pub const QUEUE_MAX: usize = 1024;
/// How many writes share one barrier at most, so that the first of them is not kept waiting for ever.
pub const GROUP_MAX: usize = 512;

type Done = Box<dyn FnOnce(Result<(), Arc<Error>>) + Send>;

/// The thread that makes writes durable in groups.
#[derive(Debug)]
pub struct Flusher;

/// The way to a [`Flusher`]. Clones share it; when the last one goes, the thread finishes what is queued and ends.
#[derive(Clone, Debug)]
pub struct FlusherHandle {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner {
    /// `None` only while this is dropped.
    queue: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

struct Request {
    work: Option<(Tree, Sequence)>,
    done: Option<Done>,
}

impl Flusher {
    /// Starts the thread.
    pub fn spawn(store: Store) -> Result<FlusherHandle, Error> {
        let (queue, requests) = sync_channel(QUEUE_MAX);
        let dir = store.dir().to_owned();
        let thread = thread::Builder::new()
            .name("stella-flusher".to_owned())
            .spawn(move || run(&store, &requests))
            .map_err(|source: io::Error| Error::from_io(&dir, "start a flusher for", source))?;
        Ok(FlusherHandle { owner: Arc::new(Owner { queue: Some(queue), thread: Some(thread) }) })
    }
}

impl FlusherHandle {
    /// Makes writes in their order and returns when they are durable. Waits for a place in the queue; not for async code.
    pub fn commit_blocking(&self, tree: &Tree, writes: Sequence) -> Result<(), Arc<Error>> {
        let (sender, receiver) = sync_channel(1);
        // The receiver is waiting below until this one message comes, so sending it cannot fail.
        let request = Request::new(tree, writes, Box::new(move |result| drop(sender.send(result))));
        self.owner.queue().send(request).map_err(|_refused| Arc::new(Error::Stopped))?;
        receiver.recv().unwrap_or_else(|_gone| Err(Arc::new(Error::Stopped)))
    }

    /// Makes writes in their order and calls `done` once: when they are durable, or when that failed. Never waits.
    ///
    /// `done` runs on the flusher's thread, or right here if the write is refused ([`Error::Busy`]); it must be quick
    /// and must not wait for another commit.
    pub fn commit_then(
        &self,
        tree: &Tree,
        writes: Sequence,
        done: impl FnOnce(Result<(), Arc<Error>>) + Send + 'static,
    ) {
        match self.owner.queue().try_send(Request::new(tree, writes, Box::new(done))) {
            Ok(()) => {}
            Err(TrySendError::Full(mut request)) => request.answer(Err(Arc::new(Error::Busy))),
            Err(TrySendError::Disconnected(mut request)) => request.answer(Err(Arc::new(Error::Stopped))),
        }
    }
}

impl Owner {
    fn queue(&self) -> &SyncSender<Request> {
        self.queue.as_ref().expect("the queue is only taken by drop, which has no other user")
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        drop(self.queue.take());
        let Some(thread) = self.thread.take() else { return };
        // The last handle may go in a callback on the thread itself, which cannot wait for its own end.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the flusher has panicked; its waiting writers were told that it stopped");
        }
    }
}

impl Request {
    fn new(tree: &Tree, writes: Sequence, done: Done) -> Self {
        Self { work: Some((tree.clone(), writes)), done: Some(done) }
    }

    fn answer(&mut self, result: Result<(), Arc<Error>>) {
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl Drop for Request {
    /// A writer is told in every case, even if the thread goes down with its request in the queue.
    fn drop(&mut self) {
        self.answer(Err(Arc::new(Error::Stopped)));
    }
}

fn run(store: &Store, requests: &Receiver<Request>) {
    while let Ok(first) = requests.recv() {
        let mut group = vec![first];
        group.extend(requests.try_iter().take(GROUP_MAX - 1));
        let result = commit_group(store, &mut group).map_err(Arc::new);
        if let Err(error) = &result {
            tracing::error!(error = %error, writes = group.len(), "writes could not be made durable");
        }
        for mut request in group {
            request.answer(result.clone());
        }
    }
}

fn commit_group(store: &Store, group: &mut [Request]) -> Result<(), Error> {
    for request in group {
        if let Some((tree, writes)) = request.work.take() {
            store.apply_in_order(&tree, writes)?;
        }
    }
    store.barrier()
}
