//! Certificates of a real authority, and handshakes over real sockets.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use muster_access::{
    Authority, AuthorityError, Certificate, Credentials, CredentialsError, Dial, DialError,
    Identity, Role, ServerTls, Subject, Validity,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};

const YEAR: u32 = 365;

fn validity(days_ago: u64, days: u32) -> Validity {
    let from = SystemTime::now() - Duration::from_secs(days_ago * 86_400);
    Validity { from, days }
}

fn caller(name: &str, role: Role) -> Subject {
    Subject::Caller(Identity {
        name: name.into(),
        role,
    })
}

fn server() -> Subject {
    Subject::Server {
        hosts: vec!["localhost".into(), "127.0.0.1".into()],
    }
}

/// Who the server in `servers` takes the client in `clients` for, and what the client says.
async fn handshake(
    servers: &Path,
    clients: &Path,
) -> (Result<Option<Identity>, String>, Result<(), String>) {
    let tls = ServerTls::read(servers, Timestamp::now()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        match tls.accept(stream).await {
            Ok((_, identity)) => Ok(identity),
            Err(error) => Err(error.to_string()),
        }
    };
    let call = async {
        let dial = Dial::new(&url, Some(clients)).map_err(|error| error.to_string())?;
        let connected = dial.connect().await;
        connected.map(drop).map_err(|error| error.to_string())
    };
    tokio::join!(serve, call)
}

/// Shows a certificate without looking at it first.
async fn insist(credentials: &Path, address: std::net::SocketAddr) {
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(credentials.join("ca.crt")).unwrap();
    roots.add(authority).unwrap();
    let chain = CertificateDer::from_pem_file(credentials.join("tls.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(credentials.join("tls.key")).unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![chain], key)
        .unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    // Whether it hears of the refusal in the handshake or after it is TLS's affair.
    let _ = connector.connect(name, stream).await;
}

#[tokio::test]
async fn a_certificate_names_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let authority = Authority::create(&at("ca"), validity(0, YEAR)).unwrap();
    authority
        .issue(&server(), validity(0, YEAR), &at("coordinator"))
        .unwrap();
    // One that was opened again signs as well.
    let authority = Authority::open(&at("ca")).unwrap();
    let anna = caller("anna", Role::Submitter);
    authority
        .issue(&anna, validity(0, YEAR), &at("anna"))
        .unwrap();

    let certificate = Certificate::read(&at("coordinator").join("tls.crt")).unwrap();
    assert_eq!(certificate.hosts, ["localhost", "127.0.0.1"]);
    assert_eq!(certificate.identity, None);
    assert!(
        Certificate::read(&at("ca").join("ca.crt"))
            .unwrap()
            .is_authority
    );

    let (seen, said) = handshake(&at("coordinator"), &at("anna")).await;
    said.unwrap();
    let seen = seen.unwrap().unwrap();
    assert_eq!((seen.name.as_str(), seen.role), ("anna", Role::Submitter));
    // Another one there would sign for another cluster.
    let again = Authority::create(&at("ca"), validity(0, YEAR));
    assert!(matches!(again, Err(AuthorityError::Exists { .. })));
}

#[tokio::test]
async fn strangers_are_refused_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let ours = Authority::create(&at("ours"), validity(0, YEAR)).unwrap();
    let other = Authority::create(&at("other"), validity(0, YEAR)).unwrap();
    ours.issue(&server(), validity(0, YEAR), &at("coordinator"))
        .unwrap();
    other
        .issue(&caller("eve", Role::Admin), validity(0, YEAR), &at("eve"))
        .unwrap();

    // A client that does not know the server's authority does not go on.
    let (_, said) = handshake(&at("coordinator"), &at("eve")).await;
    let said = said.unwrap_err();
    assert!(said.contains("UnknownIssuer"), "{said}");
    // One that does is still not known itself.
    std::fs::copy(at("ours").join("ca.crt"), at("eve").join("ca.crt")).unwrap();
    let (seen, _) = handshake(&at("coordinator"), &at("eve")).await;
    let seen = seen.unwrap_err();
    assert!(seen.contains("UnknownIssuer"), "{seen}");
    // A server's certificate is no caller's, even of the same authority.
    let (seen, _) = handshake(&at("coordinator"), &at("coordinator")).await;
    assert!(seen.is_err());
    // Another host than the certificate names.
    let elsewhere = Subject::Server {
        hosts: vec!["node-9".into()],
    };
    ours.issue(&elsewhere, validity(0, YEAR), &at("elsewhere"))
        .unwrap();
    ours.issue(
        &caller("anna", Role::Viewer),
        validity(0, YEAR),
        &at("anna"),
    )
    .unwrap();
    let (_, said) = handshake(&at("elsewhere"), &at("anna")).await;
    let said = said.unwrap_err();
    assert!(said.contains("node-9"), "{said}");
}

#[tokio::test]
async fn what_has_expired_is_refused_with_words() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let authority = Authority::create(&at("ca"), validity(0, YEAR)).unwrap();
    authority
        .issue(&server(), validity(0, YEAR), &at("coordinator"))
        .unwrap();
    authority
        .issue(&caller("anna", Role::Viewer), validity(30, 10), &at("anna"))
        .unwrap();
    let refused = Dial::new("https://localhost:1", Some(&at("anna"))).unwrap_err();
    let DialError::Credentials(refused @ CredentialsError::WrongTime { .. }) = refused else {
        panic!("{refused}");
    };
    assert!(refused.to_string().contains("expired at"), "{refused}");
    assert!(Credentials::read(&at("anna"), Timestamp::now()).is_err());
    // One that calls all the same, with a clock of its own, is refused by the other side.
    let tls = ServerTls::read(&at("coordinator"), Timestamp::now()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let credentials = at("anna");
    let call = insist(&credentials, address);
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        tls.accept(stream).await.map(drop).unwrap_err().to_string()
    };
    let (refused, ()) = tokio::join!(serve, call);
    assert!(refused.contains("xpired"), "{refused}");
    // A server does not start with one either.
    authority
        .issue(&server(), validity(30, 10), &at("coordinator"))
        .unwrap();
    assert!(ServerTls::read(&at("coordinator"), Timestamp::now()).is_err());
}
