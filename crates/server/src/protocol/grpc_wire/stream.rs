//! Server-streaming calls. A stream ends with its deadline, with its caller, or when the server drains.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use http_body::{Body, Frame};
use prost::Message;
use tokio::sync::mpsc;

use super::framing;
use crate::service::Service;
use servable_http::activity::{Of, Piece, UnderWay};
use servable_http::body::{AnswerBody, Claim};
use servable_model::call::Call;
use servable_model::error::{Code, Result, ServingError};

/// The body of a streaming answer: messages, and then the status.
pub struct Messages {
    frames: mpsc::Receiver<Frame<Bytes>>,
    under_way: Option<UnderWay>,
}

impl AnswerBody for Messages {
    fn whole_len(&self) -> Option<usize> {
        None
    }

    fn hold(&mut self, under_way: UnderWay, _: Option<Claim>) {
        self.under_way = Some(under_way);
    }
}

impl Body for Messages {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        let piece = |bytes| Piece::new(bytes, Of::Nothing);
        self.frames.poll_recv(cx).map(|frame| frame.map(|frame| Ok(frame.map_data(piece))))
    }
}

/// The caller has closed the stream.
pub(crate) struct Gone;

/// Sends the messages of one answer.
pub(crate) struct Sender(mpsc::Sender<Frame<Bytes>>);

impl Sender {
    /// Sends a message. Waits until the caller has taken the one before.
    pub(crate) async fn send(&self, message: &impl Message) -> Result<(), Gone> {
        let framed = framing::framed(framing::encode(message), false).expect("answers in parts are small");
        self.0.send(Frame::data(framed.freeze())).await.map_err(|_| Gone)
    }
}

/// Answers with the messages that `work` sends, and the status that it returns.
///
/// The work is dropped when the caller disconnects, at the deadline, and when the server drains, unless `work` handles
/// draining.
///
/// # Errors
///
/// `RESOURCE_EXHAUSTED` at the limit of open streams.
pub(crate) fn answer<Work>(
    service: &Arc<Service>,
    call: Call,
    work: impl FnOnce(Sender) -> Work,
) -> Result<Response<Messages>>
where
    Work: Future<Output = Result<Result<()>, Gone>> + Send + 'static,
{
    let Ok(slot) = Arc::clone(&service.streams).try_acquire_owned() else {
        return Err(ServingError::new(
            Code::ResourceExhausted,
            format!("more than {} streams are open", Service::MAX_STREAMS),
        ));
    };
    let (frames, taken) = mpsc::channel(1);
    let work = work(Sender(frames.clone()));
    tokio::spawn(async move {
        let _slot = slot;
        let status = tokio::select! {
            ended = work => match ended {
                Ok(status) => status,
                Err(Gone) => return,
            },
            () = passed(call) => Err(ServingError::new(Code::DeadlineExceeded, "Deadline Exceeded")),
            () = frames.closed() => return,
        };
        // A caller that has closed the stream needs no status.
        let _ = frames.send(Frame::trailers(framing::trailers(&status))).await;
    });
    let mut response = Response::new(Messages { frames: taken, under_way: None });
    response.headers_mut().insert(CONTENT_TYPE, framing::GRPC);
    Ok(response)
}

async fn passed(call: Call) {
    match call.deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The status of streams that end because the server drains.
pub(crate) fn shutting_down() -> ServingError {
    ServingError::new(Code::Unavailable, "the server is shutting down")
}
