//! Pages and the vendor's package.

use crate::{Control, http};

#[tokio::test]
async fn the_phone_page_and_its_files_have_their_types() {
    let control = Control::start(&[]);
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/phone.css", "text/css; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/phone.js", "text/javascript; charset=utf-8"),
        ("/scheme.js", "text/javascript; charset=utf-8"),
        ("/modules/call.js", "text/javascript; charset=utf-8"),
    ] {
        let page = http::get(control.http(), path).await;
        assert_eq!((page.status, page.header("content-type")), (200, Some(kind)), "{path}");
        assert!(!page.body.is_empty());
        let policy = page.header("content-security-policy");
        assert_eq!(policy.is_some(), kind.starts_with("text/html"), "{path}");
        assert!(
            policy.is_none_or(|policy| policy.contains("default-src 'self'") && !policy.contains("unsafe")),
            "{path}"
        );
    }
    assert_eq!(http::get(control.http(), "/nothing").await.status, 404);
    assert_eq!(http::get(control.http(), "/demo.json").await.status, 404);
}

/// A browser asks each time, because pages change with the program, and gets only what it does not have.
#[tokio::test]
async fn a_file_that_the_browser_has_is_not_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("flashphoner.js"), "sdk").unwrap();
    let control = Control::start(&[&format!("sdk_dir={}", dir.path().display())]);
    for path in ["/", "/modules/call.js", "/client2/flashphoner.js"] {
        let first = http::get(control.http(), path).await;
        let tag = first.header("etag").expect("an entity tag").to_owned();
        let ask = async |list: String| {
            let headers = format!("Host: {}\r\nIf-None-Match: {list}\r\n", control.http());
            http::request_with(control.http(), "GET", path, &headers, "").await
        };
        for list in [tag.clone(), format!("\"other\", W/{tag}")] {
            let again = ask(list).await;
            assert_eq!((again.status, again.body.as_str(), again.header("etag")), (304, "", Some(&*tag)), "{path}");
        }
        let changed = ask("\"other\"".to_owned()).await;
        assert_eq!((changed.status, &changed.body), (200, &first.body), "{path}");
    }
    assert_eq!(http::get(control.http(), "/nothing").await.header("etag"), None);
}

#[tokio::test]
async fn the_package_is_served_and_nothing_outside_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let sdk = dir.path().join("sdk");
    std::fs::create_dir_all(sdk.join("examples")).unwrap();
    std::fs::write(sdk.join("flashphoner.js"), "sdk").unwrap();
    std::fs::write(sdk.join("examples/a b.html"), "example").unwrap();
    std::fs::write(dir.path().join("secret.txt"), "secret").unwrap();
    let control = Control::start(&[&format!("sdk_dir={}", sdk.display())]);
    let page = http::get(control.http(), "/client2/flashphoner.js").await;
    assert_eq!((page.status, page.body.as_str()), (200, "sdk"));
    assert_eq!(page.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(http::get(control.http(), "/client2/examples/a%20b.html").await.body, "example");
    for path in [
        "/client2/../secret.txt",
        "/client2/%2e%2e/secret.txt",
        "/client2/..%2fsecret.txt",
        "/client2/examples",
        "/client2/%00",
    ] {
        let page = http::get(control.http(), path).await;
        assert_eq!(page.status, 404, "{path}");
        assert!(!page.body.contains("secret"), "{path}");
    }
}

#[tokio::test]
async fn a_missing_package_is_told_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let control = Control::start(&[&format!("sdk_dir={}/none", dir.path().display())]);
    let page = http::get(control.http(), "/client2/flashphoner.js").await;
    assert_eq!(page.status, 404);
    assert!(page.body.contains("npm ci") && page.body.contains("./run"), "{}", page.body);
}

#[tokio::test]
async fn a_plain_get_on_the_signalling_port_says_where_to_go() {
    let control = Control::start(&[]);
    let page = http::get(control.ws(), "/").await;
    assert_eq!(page.status, 200);
    let http_port = control.http().port();
    assert!(page.body.contains(&format!("http://127.0.0.1:{http_port}/")), "{}", page.body);
    assert!(control.dir.path().join("tls-self-signed.pem").exists());
}
