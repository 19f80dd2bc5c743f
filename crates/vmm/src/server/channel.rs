//! How the API's thread and the main thread talk: one request at a time, and its answer.
//!
//! ```text
//!   Caller ──request, asked──▶ Inbox
//!          ◀─answer, answered──
//! ```
//!
//! Either end sees that the other has gone.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};

use api::Request;
use host::EventFd;

/// What a request comes to: the JSON that was asked for, or nothing to tell, or why it is refused.
pub(crate) type Answer = Result<Option<String>, api::Error>;

/// Makes a channel.
pub(crate) fn channel() -> std::io::Result<(Caller, Inbox)> {
    let (asked, answered) = (Arc::new(EventFd::new()?), Arc::new(EventFd::new()?));
    let (send_request, requests) = mpsc::channel();
    let (send_answer, answers) = mpsc::channel();
    let caller = Caller {
        requests: send_request,
        answers,
        asked: asked.clone(),
        answered: answered.clone(),
    };
    Ok((caller, Inbox { requests, answers: Some(send_answer), asked, answered }))
}

/// The API's end.
pub(super) struct Caller {
    requests: Sender<Request>,
    answers: Receiver<Answer>,
    asked: Arc<EventFd>,
    answered: Arc<EventFd>,
}

/// What the API's end finds when it looks.
pub(super) enum Reply {
    /// The answer to the last request.
    Answer(Answer),
    /// No answer yet.
    Nothing,
    /// The main thread has gone.
    Gone,
}

impl Caller {
    /// Raised when there is an answer, or when the main thread has gone.
    pub fn answered(&self) -> &EventFd {
        &self.answered
    }

    /// Sends a request. False if nobody is there to take it.
    pub fn ask(&self, request: Request) -> bool {
        let sent = self.requests.send(request).is_ok();
        self.asked.signal();
        sent
    }

    /// Looks for an answer.
    pub fn reply(&self) -> Reply {
        match self.answers.try_recv() {
            Ok(answer) => Reply::Answer(answer),
            Err(TryRecvError::Empty) => Reply::Nothing,
            Err(TryRecvError::Disconnected) => Reply::Gone,
        }
    }
}

/// The main thread's end. Dropping it ends the API.
pub(crate) struct Inbox {
    requests: Receiver<Request>,
    answers: Option<Sender<Answer>>,
    asked: Arc<EventFd>,
    answered: Arc<EventFd>,
}

impl Inbox {
    /// Waits for a request. None if the API has gone.
    pub fn wait(&self) -> Option<Request> {
        let request = self.requests.recv().ok();
        self.asked.clear();
        request
    }

    /// A request, if one waits.
    pub fn next(&self) -> Option<Request> {
        // In this order: what is sent behind the look raises the event again.
        self.asked.clear();
        self.requests.try_recv().ok()
    }

    /// Answers the request that was taken last.
    pub fn answer(&self, answer: Answer) {
        if let Some(answers) = &self.answers {
            // Nobody listens any more: the API has gone, and says so to [`Inbox::wait`].
            let _ = answers.send(answer);
        }
        self.answered.signal();
    }
}

impl AsFd for Inbox {
    /// Readable while a request waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.asked.as_fd()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.answers = None;
        self.answered.signal();
    }
}

#[cfg(test)]
mod tests {
    use api::Tell;

    use super::*;

    #[test]
    fn requests_and_answers_go_back_and_forth() {
        let (caller, inbox) = channel().unwrap();
        assert!(inbox.next().is_none() && matches!(caller.reply(), Reply::Nothing));
        for _ in 0..2 {
            assert!(caller.ask(Request::Tell(Tell::Version)));
            assert!(matches!(inbox.next(), Some(Request::Tell(Tell::Version))));
            inbox.answer(Ok(None));
            assert!(caller.answered().clear());
            assert!(matches!(caller.reply(), Reply::Answer(Ok(None))));
        }
        assert!(caller.ask(Request::Tell(Tell::Instance)));
        assert!(matches!(inbox.wait(), Some(Request::Tell(Tell::Instance))));
    }

    #[test]
    fn each_end_sees_the_other_go() {
        let (caller, inbox) = channel().unwrap();
        drop(caller);
        assert!(inbox.wait().is_none());
        inbox.answer(Ok(None));
        let (caller, inbox) = channel().unwrap();
        drop(inbox);
        assert!(caller.answered().clear() && matches!(caller.reply(), Reply::Gone));
        assert!(!caller.ask(Request::Tell(Tell::Version)));
    }
}
