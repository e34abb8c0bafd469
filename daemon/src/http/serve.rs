//! Accepts connections and serves each on a task of its own, within what [`Connections`] allows.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::connections::{Connection, Connections, Side};

/// Bytes that a connection buffers in the process each way: its headers, and what the client has not taken
/// yet.
const BUFFER: usize = 64 << 10;
/// Bytes that the kernel may hold for a client that takes nothing; it doubles them for its own use.
const SEND_BUFFER: usize = 128 << 10;
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two lines of the log about that.
const QUIET: Duration = Duration::from_mins(1);

/// Which connection a request came on: an extension of it.
#[derive(Clone, Debug)]
pub(crate) struct Via {
    pub(crate) all: Arc<Connections>,
    pub(crate) connection: Arc<Connection>,
}

/// Serves until the task is aborted. Connections live on tasks of their own and end with the runtime, so that
/// an answer on its way may still arrive.
pub(crate) async fn serve(listener: TcpListener, router: Router, all: Arc<Connections>) {
    let mut failures = Failures::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                prepare(&stream);
                let via = Via {
                    connection: all.open(),
                    all: Arc::clone(&all),
                };
                tokio::spawn(connection(stream, router.clone(), via));
            }
            // The client went away before it was accepted.
            Err(error) if is_of_client(&error) => {}
            Err(error) => {
                failures.note(&error);
                all.end_one();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_of_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn prepare(stream: &TcpStream) {
    let bounded = set_socket_send_buffer_size(stream, SEND_BUFFER).map_err(io::Error::from);
    if let Err(error) = stream.set_nodelay(true).and(bounded) {
        tracing::debug!(%error, "an option of a connection");
    }
}

/// Connections that could not be accepted: said once a minute.
#[derive(Default)]
struct Failures {
    since: u64,
    said: Option<Instant>,
}

impl Failures {
    fn note(&mut self, error: &io::Error) {
        self.since += 1;
        if self.said.is_none_or(|said| said.elapsed() >= QUIET) {
            tracing::warn!(%error, times = self.since, "cannot accept HTTP connections");
            *self = Self {
                since: 0,
                said: Some(Instant::now()),
            };
        }
    }
}

/// Serves one connection to its end.
async fn connection(stream: TcpStream, router: Router, via: Via) {
    let Via { all, connection } = via.clone();
    let _open = Open(via.clone());
    let answers = TowerToHyperService::new(router);
    let answer = |request: Request<Incoming>| {
        via.connection.asked();
        let mut request = request.map(|body| {
            Body::new(RequestBody {
                body,
                connection: Arc::clone(&via.connection),
            })
        });
        request.extensions_mut().insert(via.clone());
        let (answer, connection) = (answers.call(request), Arc::clone(&via.connection));
        async move {
            let answer: Response<Body> = answer.await?;
            Ok::<_, Infallible>(answer.map(|body| AnswerBody { body, connection }))
        }
    };
    let io = TokioIo::new(Watched {
        stream,
        connection: Arc::clone(&connection),
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(all.limits().fresh_for)
        .max_buf_size(BUFFER);
    // Dropped in the middle, it breaks a body on its way off with an error.
    tokio::select! {
        served = http.serve_connection(io, service_fn(answer)) => {
            if let Err(error) = served {
                tracing::debug!(%error, "a connection ended");
            }
        }
        () = all.ended(&connection) => {}
    }
}

/// Gives the slot of a connection back, however it ends.
struct Open(Via);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.all.close(&self.0.connection);
    }
}

/// The body of a request.
struct RequestBody {
    body: Incoming,
    connection: Arc<Connection>,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Pending => self.connection.waits(Side::Request),
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                self.connection.moved(Side::Request, data.map_or(0, Bytes::len));
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer: when it is dropped, the request is done with.
struct AnswerBody {
    body: Body,
    connection: Arc<Connection>,
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.connection.answered();
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that notes when its client takes nothing.
struct Watched {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl Watched {
    fn note(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.connection.waits(Side::Answer),
            Poll::Ready(written) => {
                let bytes = written.as_ref().map_or(0, |bytes| *bytes);
                self.connection.moved(Side::Answer, bytes);
            }
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
