use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn check(kind: CheckKind, address: SocketAddr) -> Check {
    let (interval, timeout) = (Duration::from_millis(20), Duration::from_millis(500));
    Check { kind, address, interval, timeout, failures: 3, successes: 2 }
}

const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

#[test]
fn a_verdict_takes_results_in_a_row() {
    let check = check(CheckKind::Tcp, NOWHERE);
    let mut verdict = Verdict::default();
    let results = [true, false, true, true, false, false, true, false, false, false];
    let changes: Vec<_> = results.iter().map(|passed| verdict.take(*passed, &check)).collect();
    let expected = [None, None, None, Some(true), None, None, None, None, None, Some(false)];
    assert_eq!(changes, expected);
}

async fn server(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer).await;
        }
    });
    address
}

#[tokio::test]
async fn tries_what_it_is_told() {
    let good = server(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    let bad = server(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    let http = || CheckKind::Http { path: "/healthz".into() };
    let exec = |program: &str| CheckKind::Exec { command: vec![program.to_owned()] };
    for (kind, address, well) in [
        (CheckKind::Tcp, good, true),
        (CheckKind::Tcp, NOWHERE, false),
        (http(), good, true),
        (http(), bad, false),
        (http(), NOWHERE, false),
        (CheckKind::Grpc { service: String::new() }, good, false),
        (exec("true"), NOWHERE, true),
        (exec("false"), NOWHERE, false),
        (exec("/no/such/program"), NOWHERE, false),
    ] {
        let check = check(kind, address);
        let result = timeout(check.timeout, attempt(&check)).await;
        assert_eq!(matches!(result, Ok(Ok(()))), well, "{check:?}: {result:?}");
    }
}

#[test]
fn speaks_the_health_protocol() {
    assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
    assert_eq!(&health_request("a")[..], [0, 0, 0, 0, 3, 0x0a, 1, b'a']);
    assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
    for other in [&[][..], &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 2, 8, 2]] {
        assert!(!is_serving(other), "{other:?}");
    }
}

/// A gRPC server with one answer to everything.
async fn grpc_server(status: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(message)))
                });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn asks_a_grpc_server() {
    for (status, well) in [(1, true), (2, false)] {
        let address = grpc_server(status).await;
        let result = grpc(address, "shop.Cart").await;
        assert_eq!(result.is_ok(), well, "{result:?}");
    }
}
