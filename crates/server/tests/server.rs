//! The request path over real sockets, with an executor of our own and neither Python nor TensorFlow.

use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use servable_http::body::BodyLimits;
use servable_http::http2::Http2Options;
use servable_http::listener::{Endpoint, HeadLimits, ListenOptions, Listening, Offer};
use servable_model::error::{Code, Result, ServingError};
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{DType, Elements, Tensor};
use servable_server::administration::AdminHosts;
use servable_server::dispatch::{Dispatch, ProtocolOptions};
use servable_server::protocol::tfs_grpc::GrpcOptions;
use servable_server::protocol::tfs_rest::RestOptions;
use servable_server::service::Service;
use servable_server::serving::ApiOptions;
use servable_server::serving::map::{Model, State, Version};
use servable_server::serving::servable::Servable;

/// Echoes its input. The first element is a delay in milliseconds.
struct SlowEcho;

impl Executor for SlowEcho {
    fn run(&self, _: &Signature, inputs: Vec<Tensor>, _: &[usize], _: &RunOptions) -> Result<Vec<Tensor>> {
        let Elements::Numbers(buffer) = inputs[0].elements() else {
            return Err(ServingError::invalid_argument("numbers are wanted"));
        };
        let first = buffer.as_ref().first_chunk::<4>().map_or(0.0, |bytes| f32::from_le_bytes(*bytes));
        thread::sleep(Duration::from_millis(first as u64));
        Ok(inputs)
    }
}

fn service() -> Arc<Service> {
    let spec = |alias: &str| TensorSpec {
        alias: alias.to_owned(),
        tensor_name: format!("{alias}:0"),
        dtype: DType::FLOAT,
        shape: None,
    };
    let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() };
    let signatures = BTreeMap::from([("serving_default".to_owned(), signature)]);
    let servable = Servable::new(signatures, Bytes::new(), Box::new(SlowEcho));
    let version = Version {
        number: 1,
        state: State::Available,
        error_code: Code::Ok,
        error_message: String::new(),
        published: Some(servable.publish(Arc::default())),
    };
    let service = Service::new(ApiOptions::default(), Box::new(()));
    service.serving_map.publish([(b"echo".to_vec(), Model::new(vec![version], HashMap::new(), None))]);
    Arc::new(service)
}

const PATIENT: Duration = Duration::from_secs(30);
const IMPATIENT: Duration = Duration::from_millis(100);

fn options(address: &str, idle_timeout: Duration) -> ListenOptions {
    ListenOptions {
        endpoints: vec![Endpoint { address: address.to_owned(), tls: false, offer: Offer::Everything }],
        socket_mode: None,
        tls: Arc::default(),
        worker_threads: 2,
        max_connections: 16,
        head: HeadLimits { max_bytes: 5_000, max_count: 100, timeout: idle_timeout },
        idle_timeout,
        body: BodyLimits {
            max_total_bytes: usize::MAX,
            max_bytes: 10_000,
            max_decompressed_bytes: 10_000,
            part_timeout: idle_timeout,
            min_bytes_per_second: 100,
        },
        http2: Http2Options::default(),
    }
}

fn dispatch(options: &ListenOptions) -> Dispatch {
    let rest = RestOptions { timeout: Some(Duration::from_secs(10)), cors: false, max_nesting: 64 };
    let protocols = ProtocolOptions { grpc: GrpcOptions::default(), rest, admin_hosts: AdminHosts::default() };
    Dispatch::new(service(), protocols, options)
}

fn try_to_bind(options: ListenOptions) -> std::io::Result<Listening<Dispatch>> {
    Listening::start(dispatch(&options), options)
}

fn bind(options: ListenOptions) -> Listening<Dispatch> {
    try_to_bind(options).expect("a loopback port is free")
}

fn start(idle_timeout: Duration) -> Listening<Dispatch> {
    let mut server = bind(options("127.0.0.1:0", idle_timeout));
    server.open().expect("what is bound can be listened at");
    server
}

fn connect(server: &Listening<Dispatch>) -> TcpStream {
    let stream = TcpStream::connect(server.addresses()[0]).expect("the server listens");
    stream.set_read_timeout(Some(PATIENT)).expect("a legal time-out");
    stream
}

fn predict(body: &str) -> String {
    format!("POST /v1/models/echo:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// All bytes until the server closes the connection.
fn rest_of(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the server closes within the time-out");
    String::from_utf8(answer).expect("the answers here are ASCII")
}

/// The answers to these bytes on one connection, which is then half-closed.
fn answers(server: &Listening<Dispatch>, bytes: &str) -> String {
    let mut stream = connect(server);
    stream.write_all(bytes.as_bytes()).expect("the server reads");
    stream.shutdown(Shutdown::Write).expect("it is connected");
    rest_of(stream)
}

#[test]
fn a_client_that_closes_its_side_still_gets_its_answers_in_order() {
    let server = start(PATIENT);
    let two = predict(r#"{"instances":[30.0]}"#) + &predict(r#"{"inputs":20.5}"#);
    let began = Instant::now();
    let answers = answers(&server, &two);
    assert!(began.elapsed() < Duration::from_millis(1500), "the connection ends with the last answer");
    let first = answers.find("\"predictions\": [30.0").expect("the first answer");
    let second = answers.find("\"outputs\": 20.5").expect("the second answer");
    assert!(first < second);
    assert!(server.drain(PATIENT));
}

#[test]
fn a_client_that_has_closed_its_side_is_not_waited_for_for_ever() {
    let server = start(PATIENT);
    let mut stream = connect(&server);
    stream.write_all(predict(r#"{"instances":[4000.0]}"#).as_bytes()).expect("the server reads");
    stream.shutdown(Shutdown::Write).expect("it is connected");
    let began = Instant::now();
    assert_eq!(rest_of(stream), "");
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&began.elapsed()));
}

#[test]
fn bodies_beyond_the_limit_are_refused() {
    let server = start(PATIENT);
    let head = "POST /v1/models/echo:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10001\r\n\r\n";
    assert!(answers(&server, head).starts_with("HTTP/1.1 413 Request Entity Too Large\r\n"));
    let chunk = format!("800\r\n{}\r\n", "x".repeat(0x800));
    let head = "POST /v1/models/echo:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(answers(&server, &(head.to_owned() + &chunk.repeat(6))).starts_with("HTTP/1.1 413"));
}

#[test]
fn idle_and_trickling_connections_are_closed_and_busy_ones_are_not() {
    let server = start(IMPATIENT);
    let silent = connect(&server);
    let mut trickling = connect(&server);
    let mut busy = connect(&server);
    busy.write_all(predict(r#"{"instances":[400.0]}"#).as_bytes()).expect("the server reads");
    let began = Instant::now();
    let trickler = thread::spawn({
        let mut stream = trickling.try_clone().expect("a second handle");
        move || {
            // Each byte arrives well within the time-out. The head as a whole never does.
            while stream.write_all(b"G").is_ok() && began.elapsed() < PATIENT {
                thread::sleep(IMPATIENT / 4);
            }
        }
    });
    assert_eq!(rest_of(silent), "");
    let mut answer = [0; 1 << 10];
    let length = trickling.read(&mut answer).expect("an answer comes before the end");
    assert!(answer[..length].starts_with(b"HTTP/1.1 408 Request Timeout\r\n"));
    assert!(began.elapsed() < PATIENT);
    trickler.join().expect("it stops when it cannot write");
    busy.shutdown(Shutdown::Write).expect("it is connected");
    assert!(rest_of(busy).contains("\"predictions\": [400.0"));
}

#[test]
fn a_body_that_stops_coming_gets_408() {
    let server = start(IMPATIENT);
    let mut stream = connect(&server);
    let head = "POST /v1/models/echo:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"inst";
    stream.write_all(head.as_bytes()).expect("the server reads");
    assert!(rest_of(stream).starts_with("HTTP/1.1 408 Request Timeout\r\n"));
}

#[test]
fn draining_finishes_requests_in_flight_and_accepts_no_new_ones() {
    let server = start(PATIENT);
    let address = server.addresses()[0];
    let _idle = connect(&server);
    let mut stream = connect(&server);
    stream.write_all(predict(r#"{"instances":[300.0]}"#).as_bytes()).expect("the server reads");
    thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    assert!(server.drain(PATIENT));
    assert!(began.elapsed() < Duration::from_secs(5), "an idle connection does not hold it up");
    let answer = rest_of(stream);
    assert!(answer.contains("\"predictions\": [300.0"), "{answer}");
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn draining_gives_up_after_its_time() {
    let server = start(PATIENT);
    let mut stream = connect(&server);
    stream.write_all(predict(r#"{"instances":[3000.0]}"#).as_bytes()).expect("the server reads");
    thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    assert!(!server.drain(Duration::from_millis(50)));
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_port_that_is_taken_is_an_error_that_names_it() {
    let server = start(PATIENT);
    let address = server.addresses()[0].to_string();
    let error = try_to_bind(options(&address, PATIENT)).err().expect("the port is taken");
    assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
}

#[test]
fn a_port_is_taken_from_the_start_and_refuses_connections_until_it_is_opened() {
    let mut first = bind(options("127.0.0.1:0", PATIENT));
    let address = first.addresses()[0].to_string();
    assert_eq!(TcpStream::connect(&address).map(drop).map_err(|error| error.kind()), Err(ErrorKind::ConnectionRefused));
    assert!(try_to_bind(options(&address, PATIENT)).is_err(), "the other does not listen yet");
    first.open().expect("it is bound");
    let mut stream = connect(&first);
    stream.write_all(predict(r#"{"instances":[1.0]}"#).as_bytes()).expect("the server reads");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    // The next server can bind the port although connections of this one linger.
    assert!(first.drain(PATIENT));
    let mut second = bind(options(&address, PATIENT));
    second.open().expect("nobody else listens");
    assert!(TcpStream::connect(&address).is_ok());
}

#[test]
fn a_unix_socket_is_taken_from_the_start_and_refuses_connections_until_it_is_opened() {
    let path = std::env::temp_dir().join(format!("servable-server-{}.socket", std::process::id()));
    let address = format!("unix:{}", path.display());
    let mut first = bind(options(&address, PATIENT));
    let refused = Err(ErrorKind::ConnectionRefused);
    assert_eq!(UnixStream::connect(&path).map(drop).map_err(|error| error.kind()), refused);
    let error = try_to_bind(options(&address, PATIENT)).err().expect("the other has it");
    assert!(error.to_string().ends_with("another server listens there"), "{error}");
    first.open().expect("it is bound");
    assert!(UnixStream::connect(&path).is_ok());
    assert!(try_to_bind(options(&address, PATIENT)).is_err(), "the other listens");
    assert!(first.drain(PATIENT));
    assert!(!path.exists());
}

#[test]
fn health_checks_are_answered_before_the_server_opens_and_nothing_else_is() {
    let mut options = options("127.0.0.1:0", PATIENT);
    options.endpoints[0].offer = Offer::HealthOnly;
    let server = bind(options);
    let ask = |path: &str| {
        let mut stream = connect(&server);
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the server reads");
        rest_of(stream)
    };
    assert!(ask("/healthz").starts_with("HTTP/1.1 200"));
    assert!(ask("/readyz").starts_with("HTTP/1.1 200"));
    for other in ["/v1/models/echo", "/v2", "/metrics", "/"] {
        let answer = ask(other);
        assert!(answer.starts_with("HTTP/1.1 404"), "{other}: {answer}");
        assert!(answer.contains("health checks only"), "{other}: {answer}");
    }
}
