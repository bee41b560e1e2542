//! The TLS ports, with a client that trusts the certificate of `data_dir`.

use std::{net::SocketAddr, sync::Arc};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{Control, SOON, local};

async fn get(control: &Control, to: SocketAddr, name: &str, host: &str) -> String {
    let cert = CertificateDer::from_pem_file(control.dir.path().join("tls-self-signed.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn wss_says_that_the_certificate_is_accepted_and_where_to_go_back_to() {
    let control = Control::start(&[]);
    for name in ["localhost", "127.0.0.1"] {
        let page = get(&control, control.wss(), name, "gw.example.com:1").await;
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("accepts the certificate"), "{page}");
        let https = control.house.bound().https.unwrap();
        assert!(page.contains(&format!("https://gw.example.com:{https}/")), "{page}");
    }
}

#[tokio::test]
async fn https_serves_the_phone_page() {
    let control = Control::start(&[]);
    let page = get(&control, local(control.house.bound().https), "localhost", "localhost").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("phone.js"), "{page}");
}
