//! gRPC over a Unix socket: just enough of it for calls of one message each way.
//!
//! A call is an HTTP/2 request `POST /<service>/<method>` whose body is the message after five bytes: 0 for "not
//! compressed" and its length. The answer is of the same form, and its trailers have the outcome: `grpc-status`, 0
//! if all is well, and `grpc-message`, percent-encoded.

use std::future::poll_fn;
use std::io;
use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::net::UnixStream;
use wire::proxy::{DecodeError, Message, SERVICE};

/// No message is longer.
const LONGEST_MESSAGE: usize = 1 << 20;
/// What is before each message.
const PREFIX: usize = 5;
/// The media type.
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// How a call failed: a code of gRPC and words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: Code,
    pub(crate) message: String,
}

/// Codes that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    InvalidArgument = 3,
    NotFound = 5,
    Aborted = 10,
    Unimplemented = 12,
    Internal = 13,
}

impl Status {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }
}

impl From<DecodeError> for Status {
    fn from(error: DecodeError) -> Self {
        Self::new(
            Code::InvalidArgument,
            format!("the request cannot be read: {error}"),
        )
    }
}

/// Who answers calls.
pub(super) trait Service: Clone + 'static {
    /// Answers a call. It is dropped when the caller goes away.
    async fn call(&self, method: &str, message: &[u8]) -> Result<Vec<u8>, Status>;
}

/// Serves a connection until the other end closes it.
pub(super) async fn serve<S: Service>(stream: UnixStream, service: S) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        let service = service.clone();
        drop(tokio::task::spawn_local(async move {
            if let Err(error) = answer(request, respond, &service).await {
                tracing::debug!("a caller went away: {error}");
            }
        }));
    }
    Ok(())
}

async fn answer<S: Service>(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    service: &S,
) -> Result<(), h2::Error> {
    let path = request.uri().path().to_owned();
    let method = path
        .strip_prefix('/')
        .and_then(|path| path.strip_prefix(SERVICE))
        .and_then(|path| path.strip_prefix('/'));
    let work = async {
        let (body, _) = read(request.into_body())
            .await
            .map_err(|why| Status::new(Code::Internal, why))?;
        let message = message(&body)
            .ok_or_else(|| Status::new(Code::Internal, "the request is cut off or compressed"))?;
        match method {
            Some(method) => service.call(method, message).await,
            None => Err(Status::new(
                Code::Unimplemented,
                format!("there is no {path}"),
            )),
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        reset = poll_fn(|context| respond.poll_reset(context)) => return reset.map(drop),
    };
    let mut head = Response::new(());
    head.headers_mut().insert(CONTENT_TYPE, GRPC);
    match outcome {
        Ok(message) => {
            let mut stream = respond.send_response(head, false)?;
            stream.send_data(framed(&message), false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            stream.send_trailers(trailers)
        }
        Err(status) => {
            tracing::debug!("{path}: {}", status.message);
            let headers = head.headers_mut();
            headers.insert("grpc-status", HeaderValue::from(status.code as u16));
            if let Ok(text) = HeaderValue::from_str(&percent_encoded(&status.message)) {
                headers.insert("grpc-message", text);
            }
            respond.send_response(head, true).map(drop)
        }
    }
}

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody listens.
    #[error("{0}")]
    Connect(io::Error),
    /// The answer is no message.
    #[error("{0}")]
    Transport(String),
    /// The other end says that it failed.
    #[error("{0}")]
    Status(String),
}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        Self::Transport(format!("the connection broke: {error}"))
    }
}

/// Calls a method.
pub(crate) async fn call<Q: Message, A: Message>(
    socket: &Path,
    method: &str,
    message: &Q,
) -> Result<A, CallError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(CallError::Connect)?;
    let (client, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let outcome = exchange(client, method, &message.encode()).await;
    // It ends when the call is over; what it says then is of no interest any more.
    connection.abort();
    A::decode(&outcome?)
        .map_err(|error| CallError::Transport(format!("the answer cannot be read: {error}")))
}

async fn exchange(
    client: h2::client::SendRequest<Bytes>,
    method: &str,
    body: &[u8],
) -> Result<Vec<u8>, CallError> {
    let mut client = client.ready().await?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://localhost/{SERVICE}/{method}"))
        .header(CONTENT_TYPE, GRPC)
        .header(TE, "trailers")
        .body(())
        .map_err(|error| CallError::Transport(error.to_string()))?;
    let (response, mut stream) = client.send_request(request, false)?;
    stream.send_data(framed(body), true)?;
    let (head, body) = response.await?.into_parts();
    check(&head.headers)?;
    let (body, trailers) = read(body).await.map_err(CallError::Transport)?;
    check(&trailers)?;
    if !trailers.contains_key("grpc-status") {
        return Err(CallError::Transport(format!(
            "the other end answered {} and no outcome",
            head.status
        )));
    }
    let message = message(&body)
        .ok_or_else(|| CallError::Transport("the answer is cut off or compressed".to_owned()))?;
    Ok(message.to_vec())
}

/// An outcome that is not good.
fn check(headers: &HeaderMap) -> Result<(), CallError> {
    match headers.get("grpc-status") {
        None => Ok(()),
        Some(code) if code == "0" => Ok(()),
        Some(code) => {
            let message = headers
                .get("grpc-message")
                .map(|text| percent_decoded(text.as_bytes()));
            let message = message.filter(|text| !text.is_empty());
            Err(CallError::Status(
                message.unwrap_or_else(|| format!("status {code:?}")),
            ))
        }
    }
}

async fn read(mut body: RecvStream) -> Result<(Vec<u8>, HeaderMap), String> {
    let mut whole = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(|error| error.to_string())?;
        if whole.len() + part.len() > LONGEST_MESSAGE + PREFIX {
            return Err(format!(
                "the message is longer than {LONGEST_MESSAGE} bytes"
            ));
        }
        whole.extend_from_slice(&part);
        drop(body.flow_control().release_capacity(part.len()));
    }
    let trailers = body.trailers().await.map_err(|error| error.to_string())?;
    Ok((whole, trailers.unwrap_or_default()))
}

fn framed(message: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(PREFIX + message.len());
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    body.put_slice(message);
    body.freeze()
}

/// The one message of a body.
fn message(body: &[u8]) -> Option<&[u8]> {
    let (&[0, a, b, c, d], rest) = body.split_first_chunk::<PREFIX>()? else {
        return None;
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    (rest.len() == length).then_some(rest)
}

fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b' '..=b'~' if byte != b'%' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn percent_decoded(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match value {
            Some(value) if *first == b'%' => {
                bytes.push(value);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_an_outcome_come_back() {
        for text in [
            "",
            "100 % of \"nothing\"",
            "größer\nals %41",
            "%",
            "%zz",
            "a%4",
        ] {
            assert_eq!(percent_decoded(percent_encoded(text).as_bytes()), text);
        }
        assert_eq!(percent_decoded(b"%zz%4"), "%zz%4");
    }

    #[test]
    fn a_body_is_one_message() {
        assert_eq!(message(&framed(b"abc")), Some(&b"abc"[..]));
        assert_eq!(message(b"\x01\0\0\0\x03abc"), None);
        assert_eq!(message(b"\0\0\0\0\x03ab"), None);
        assert_eq!(message(b"\0\0\0\0"), None);
    }
}
