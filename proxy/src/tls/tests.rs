use std::fs;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Somebody who issues certificates, into a folder.
struct Authority {
    dir: Arc<TempDir>,
    issuer: Issuer<'static, KeyPair>,
    pub(super) file: PathBuf,
}

impl Authority {
    fn new(dir: &Arc<TempDir>, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let file = dir.path().join(format!("{name}.pem"));
        fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir: Arc::clone(dir), issuer: Issuer::new(params, key), file }
    }

    fn issue(&self, file: &str, name: &str) -> Identity {
        self.issue_until(file, name, 2099)
    }

    fn issue_until(&self, file: &str, name: &str, year: i32) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(year, 1, 1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |end: &str| self.dir.path().join(format!("{file}.{end}"));
        let identity = Identity { cert_file: path("crt"), key_file: path("key") };
        fs::write(&identity.cert_file, certificate.pem()).unwrap();
        fs::write(&identity.key_file, key.serialize_pem()).unwrap();
        identity
    }

    fn client(&self, identity: Option<Identity>) -> ClientSettings {
        let ca_file = Some(self.file.clone());
        ClientSettings { ca_file, identity, server_name: None, protocol: "http/1.1" }
    }
}

fn server(identity: Identity, clients: Option<&Authority>) -> Server {
    let client_ca_file = clients.map(|clients| clients.file.clone());
    Server::load(ServerSettings { identity, client_ca_file, protocol: "http/1.1" }).unwrap()
}

/// A client says a word to a server and hears it again; else what the client makes of it.
async fn talk(client: &Client, server: &Server) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = server.clone();
    let echo = tokio::spawn(async move {
        let mut stream = server.accept(listener.accept().await.unwrap().0).await?;
        let mut word = [0; 4];
        stream.read_exact(&mut word).await?;
        stream.write_all(&word).await?;
        stream.shutdown().await
    });
    let stream = TcpStream::connect(address).await.unwrap();
    let said = async {
        let mut stream = client.connect("localhost", stream).await?;
        stream.write_all(b"word").await?;
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).await.map_err(explained)?;
        assert_eq!(&heard, b"word");
        Ok::<(), io::Error>(())
    };
    let said = said.await.map_err(|error| error.to_string());
    let ended = echo.await.unwrap().map_err(|error| error.to_string());
    assert_eq!(said.is_ok(), ended.is_ok(), "{said:?} {ended:?}");
    said
}

fn folder() -> Arc<TempDir> {
    Arc::new(TempDir::new().unwrap())
}

#[tokio::test]
async fn each_side_can_ask_for_the_others_certificate() {
    let dir = folder();
    let (ours, theirs) = (Authority::new(&dir, "ours"), Authority::new(&dir, "theirs"));
    let alone = server(theirs.issue("server", "localhost"), None);
    let strict = server(theirs.issue("server", "localhost"), Some(&ours));
    let nobody = Client::load(theirs.client(None)).unwrap();
    let known = Client::load(theirs.client(Some(ours.issue("client", "someone")))).unwrap();
    let stranger = Client::load(theirs.client(Some(theirs.issue("stranger", "someone")))).unwrap();
    assert_eq!(talk(&nobody, &alone).await, Ok(()));
    assert_eq!(talk(&known, &alone).await, Ok(()));
    assert_eq!(talk(&known, &strict).await, Ok(()));
    let refused = talk(&nobody, &strict).await.unwrap_err();
    assert!(refused.contains("wants a certificate; give `cert_file`"), "{refused}");
    let refused = talk(&stranger, &strict).await.unwrap_err();
    assert!(refused.contains("does not take our certificate"), "{refused}");
}

#[tokio::test]
async fn it_is_said_why_a_server_is_not_trusted() {
    let dir = folder();
    let (ca, other) = (Authority::new(&dir, "ca"), Authority::new(&dir, "other"));
    let client = Client::load(ca.client(None)).unwrap();
    for (identity, reason) in [
        (other.issue("a", "localhost"), "issued by nobody who is trusted here"),
        (ca.issue_until("b", "localhost", 2002), "no longer valid"),
        (ca.issue("c", "elsewhere"), "for another name"),
    ] {
        let refused = talk(&client, &server(identity, None)).await.unwrap_err();
        assert!(refused.contains(reason), "{refused}");
    }
    let server_name = ServerName::try_from("elsewhere").ok();
    let named = Client::load(ClientSettings { server_name, ..ca.client(None) }).unwrap();
    assert_eq!(talk(&named, &server(ca.issue("c", "elsewhere"), None)).await, Ok(()));
}

#[tokio::test]
async fn new_files_serve_the_next_connection_and_bad_ones_change_nothing() {
    let dir = folder();
    let ca = Authority::new(&dir, "ca");
    let identity = ca.issue("server", "localhost");
    let server = server(identity.clone(), None);
    let client = Client::load(ca.client(Some(ca.issue("client", "someone")))).unwrap();
    assert_eq!(talk(&client, &server).await, Ok(()));

    fs::write(&identity.key_file, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let error = server.reload().unwrap_err();
    assert_eq!(error.file(), Some(&*identity.key_file));
    assert!(error.to_string().contains("is not the key of "), "{error}");
    assert_eq!(talk(&client, &server).await, Ok(()), "the old ones serve");

    // The authority is another one now: client and server have to follow.
    let ca = Authority::new(&dir, "ca");
    ca.issue("server", "localhost");
    server.reload().unwrap();
    let refused = talk(&client, &server).await.unwrap_err();
    assert!(refused.contains("issued with another key"), "{refused}");
    client.put_in_force(client.read().unwrap());
    assert_eq!(talk(&client, &server).await, Ok(()));
    assert_eq!(client.files().count(), 3);
}

#[test]
fn an_error_names_the_file_and_the_reason() {
    let dir = folder();
    let ca = Authority::new(&dir, "ca");
    let good = ca.issue("client", "someone");
    let write = |name: &str, text: &str| {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        file
    };
    let with = |cert_file: &Path, key_file: &Path| {
        let identity = Identity { cert_file: cert_file.to_owned(), key_file: key_file.to_owned() };
        Client::load(ca.client(Some(identity))).unwrap_err().to_string()
    };
    let (text, broken) = (write("text", "words"), write("broken", "-----BEGIN CERTIFICATE-----\n*\n"));
    let missing = dir.path().join("missing");
    for (error, ends) in [
        (with(&missing, &good.key_file), "missing: cannot be read: No such file or directory (os error 2)"),
        (with(&text, &good.key_file), "text: holds no certificate in PEM form"),
        (with(&good.cert_file, &text), "keys with a passphrase cannot be used"),
        (with(&good.key_file, &good.key_file), "client.key: holds no certificate in PEM form"),
    ] {
        assert!(error.ends_with(ends), "{error}");
    }
    let error = with(&broken, &good.key_file);
    assert!(error.contains("broken: not PEM: "), "{error}");
    let settings = ClientSettings { ca_file: Some(text.clone()), ..ca.client(None) };
    let error = Client::load(settings).unwrap_err();
    assert_eq!(error.file(), Some(&*text));
}
