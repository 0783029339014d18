//! Who may do what: certificates, tokens, and whoever else finds the port.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use muster_access::{Authority, Identity, Role, Subject, Validity};
use nix::sys::signal::Signal;

use crate::{
    cluster::Cluster,
    support::{
        Bench, Process, calling_as, dataset, events, eventually, output, send, status, stdout,
        training,
    },
};

/// What a command says on stderr that has to fail with this exit code.
fn refused(code: i32, arguments: &[&str]) -> String {
    let output = output(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

fn issue(bench: &Bench, name: &str, role: &str) -> PathBuf {
    let certs = bench.text("certs");
    stdout(&["certs", "issue", &certs, name, "--role", role]);
    bench.path("certs").join(name)
}

#[test]
fn over_tls_everyone_does_what_their_certificate_says_and_nothing_else() {
    let bench = Bench::new();
    let certs = bench.path("certs");
    stdout(&["certs", "init", &bench.text("certs")]);
    let anna = issue(&bench, "anna", "submitter");
    let eve = issue(&bench, "eve", "submitter");
    let viewer = issue(&bench, "viewer", "viewer");
    let node_a = issue(&bench, "node-a", "node");
    let tls = certs.join("coordinator").display().to_string();
    let mut cluster = Cluster::start_at(&bench, "127.0.0.1:0", &["--tls", &tls]);
    let url = cluster.url.clone();
    assert!(url.starts_with("https://"), "{url}");

    // Strangers: without an authority, with it but nothing to show, and with a certificate whose time is over.
    let said = refused(2, &["jobs", "--coordinator", &url]);
    assert!(said.contains("no ca.crt"), "{said}");
    let stranger = bench.path("stranger");
    fs::create_dir(&stranger).unwrap();
    fs::copy(anna.join("ca.crt"), stranger.join("ca.crt")).unwrap();
    calling_as(Some(stranger));
    let said = refused(1, &["jobs", "--coordinator", &url]);
    assert!(said.contains("has to know who calls"), "{said}");
    let expired = bench.path("expired");
    let validity = Validity {
        from: SystemTime::now() - Duration::from_secs(20 * 86_400),
        days: 10,
    };
    let root = Subject::Caller(Identity {
        name: "root".into(),
        role: Role::Admin,
    });
    let authority = Authority::open(&certs.join("ca")).unwrap();
    authority.issue(&root, validity, &expired).unwrap();
    calling_as(Some(expired.clone()));
    let said = refused(2, &["jobs", "--coordinator", &url]);
    assert!(said.contains("expired at"), "{said}");
    let shown = stdout(&["certs", "show", &expired.display().to_string()]);
    assert!(shown.contains("expired at"), "{shown}");

    // A node joins under the name that its certificate says.
    calling_as(Some(node_a));
    let agent = |name| Cluster::agent(&bench, &url, name, "1");
    cluster.agents.push(agent("node-a"));
    let impostor = agent("node-b");
    calling_as(Some(certs.join("admin")));
    let nodes = || stdout(&["nodes", "--coordinator", &url]);
    eventually("node-a", || nodes().contains("node-a").then_some(()));
    eventually("a refusal of node-b", || {
        let log = impostor.printed();
        log.contains("the certificate is of node node-a")
            .then_some(())
    });
    assert!(!nodes().contains("node-b"));
    drop(impostor);
    calling_as(Some(certs.join("node")));
    cluster.agents.push(agent("node-b"));

    // People: whoever submits owns the job.
    let spec = bench.spec();
    calling_as(Some(viewer.clone()));
    let data = format!("data.path={}", dataset().display());
    let submit = ["submit", &spec, "--set", &data, "--coordinator", &url];
    let said = refused(1, &submit);
    assert!(said.contains("it takes the role submitter"), "{said}");
    calling_as(Some(anna.clone()));
    let more = ["train.steps=100000", "workers.min=1", "workers.max=2"];
    let more: Vec<_> = more.iter().flat_map(|set| ["--set", set]).collect();
    let job = cluster.submit(&bench, &more);
    let pids = training(&url, 2, 20);
    assert!(stdout(&["jobs", "--coordinator", &url]).contains("anna"));
    for (caller, arguments, reason) in [
        (&viewer, ["stop", &job], "it takes the role submitter"),
        (&eve, ["stop", &job], "the job is anna's, and you are eve"),
        (&anna, ["cordon", "node-a"], "it takes the role admin"),
    ] {
        calling_as(Some(caller.clone()));
        let said = refused(1, &[arguments[0], arguments[1], "--coordinator", &url]);
        assert!(said.contains(reason), "{said}");
    }

    calling_as(Some(eve));
    let said = refused(
        1,
        &[&submit, ["--set", "queue.user=anna"].as_slice()].concat(),
    );
    assert!(
        said.contains("queue.user is anna, but you are eve"),
        "{said}"
    );

    // A death, and a coordinator's death, are what they are without TLS; certificates may be renewed meanwhile.
    send(pids[1], Signal::SIGKILL);
    let certs = bench.text("certs");
    stdout(&["certs", "issue", &certs, "node", "--any-node", "--renew"]);
    cluster.coordinator.signal(Signal::SIGKILL);
    cluster.coordinator.wait();
    cluster.start_coordinator_again(&bench, &["--tls", &tls]);
    calling_as(Some(viewer));
    let now = training(&url, 2, 100);
    assert!(now.contains(&pids[0]) && !now.contains(&pids[1]));
    calling_as(Some(anna));
    stdout(&["stop", &job, "--coordinator", &url]);
    assert_eq!(cluster.ended()["state"], "stopped");
    let died = |event: &serde_json::Value| event["kind"] == "worker_exit" && event["signal"] == 9;
    assert!(events(&url).iter().any(died));
    calling_as(None);
}

#[test]
fn tokens_do_the_same_without_certificates_and_are_shown_nowhere() {
    let bench = Bench::new();
    let tokens = bench.text("tokens.toml");
    let credentials = |name: &str, role: &str| {
        let out = bench.text(name);
        let new = ["token", "new", name, "--role", role, "--file", &tokens];
        stdout(&[new.as_slice(), &["--out", &out]].concat());
        bench.path(name)
    };
    let anna = credentials("anna", "submitter");
    let node = credentials("nodes", "node");
    let more = ["--tokens", tokens.as_str()];
    let mut cluster = Cluster::start_at(&bench, "127.0.0.1:0", &more);
    let url = cluster.url.clone();
    refused(1, &["jobs", "--coordinator", &url]);
    calling_as(Some(node));
    let agent = Cluster::agent(&bench, &url, "node-a", "1");
    cluster.agents.push(agent);
    let said = refused(1, &["jobs", "--coordinator", &url]);
    assert!(said.contains("it takes the role viewer"), "{said}");
    calling_as(Some(anna.clone()));
    cluster.submit(&bench, &["--set", "train.steps=100000"]);
    let worker = training(&url, 1, 5)[0];

    // No secret is in what others on the machine may see, nor in what is kept.
    let mut seen = stdout(&["status", "--coordinator", &url, "-o", "json"]);
    for pid in [cluster.coordinator.pid(), cluster.agents[0].pid(), worker] {
        for file in ["cmdline", "environ"] {
            let content = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            seen += &String::from_utf8_lossy(&content);
        }
    }
    for file in files(&bench.path("")) {
        if !file.ends_with("token") {
            // A file may have been a temporary one.
            seen += &String::from_utf8_lossy(&fs::read(file).unwrap_or_default());
        }
    }
    for name in ["anna", "nodes"] {
        let secret = fs::read_to_string(bench.path(name).join("token")).unwrap();
        assert!(secret.len() > 60 && !seen.contains(secret.trim()));
    }

    // Revoked once the coordinator has been started again; the job does not notice.
    stdout(&["token", "revoke", "anna", "--file", &tokens]);
    assert!(!stdout(&["token", "list", "--file", &tokens]).contains("anna"));
    let root = credentials("root", "admin");
    cluster.coordinator.signal(Signal::SIGTERM);
    cluster.coordinator.wait();
    cluster.start_coordinator_again(&bench, &more);
    let said = refused(1, &["jobs", "--coordinator", &url]);
    assert!(said.contains("was revoked"), "{said}");
    calling_as(Some(root));
    assert_eq!(training(&url, 1, 10), [worker]);
    assert_eq!(status(&url)["generation"], 1);
    calling_as(None);
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    // What is temporary may be gone.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => all.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => all.push(entry.path()),
            _ => {}
        }
    }
    all
}

#[test]
fn beyond_loopback_somebody_has_to_be_asked_who_they_are() {
    let bench = Bench::new();
    let data = bench.text("coordinator");
    let start = |more: &[&str]| {
        let start = ["coordinator", "--listen", "0.0.0.0:0", "--data-dir", &data];
        refused(2, &[&start, more].concat())
    };
    let said = start(&[]);
    assert!(
        said.contains("--tls") && said.contains("--tokens"),
        "{said}"
    );
    // TLS alone keeps secrets, but asks nobody.
    stdout(&["certs", "init", &bench.text("certs")]);
    let tls = bench.path("certs").join("coordinator");
    fs::remove_file(tls.join("ca.crt")).unwrap();
    let said = start(&["--tls", &tls.display().to_string()]);
    assert!(said.contains("nothing tells who calls"), "{said}");
    fs::create_dir(bench.path("empty")).unwrap();
    let said = start(&["--tls", &bench.text("empty")]);
    assert!(said.contains("no credentials directory"), "{said}");
    fs::write(bench.path("tokens.toml"), "tokens = 3").unwrap();
    let said = start(&["--tokens", &bench.text("tokens.toml")]);
    assert!(said.contains("no token file"), "{said}");
}

/// How much of the machine a process holds: open files, and memory in KiB.
fn held(process: &Process) -> (usize, u64) {
    let proc = PathBuf::from(format!("/proc/{}", process.pid()));
    let files = fs::read_dir(proc.join("fd")).unwrap().count();
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let mut lines = status.lines();
    let memory = lines.find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = memory.trim().trim_end_matches(" kB");
    (files, memory.parse().unwrap())
}

/// What scanners, broken proxies and worse say.
fn garbage() -> Vec<Vec<u8>> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const END_HEADERS: u8 = 4;
    const END_STREAM: u8 = 1;
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    };
    let literal = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    // Headers of a call to ListJobs (RFC 7541): POST and http by index, then literals.
    let headers = [
        [0x83, 0x86, 0x04].as_slice(),
        &literal("/muster.v1.JobService/ListJobs"),
        &[0x01],
        &literal("muster"),
        &[0x0f, 0x10],
        &literal("application/grpc"),
        &[0x00],
        &literal("te"),
        &literal("trailers"),
    ]
    .concat();
    let opening = [PREFACE, SETTINGS, &frame(1, END_HEADERS, &headers)].concat();
    let call = |flags: u8, message: &[u8]| [opening.as_slice(), &frame(0, flags, message)].concat();
    let noise: Vec<u8> = (0..4096u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1])
        .collect();
    vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"SSH-2.0-scanner\r\n".to_vec(),
        noise.clone(),
        [PREFACE, &noise].concat(),
        PREFACE[..10].to_vec(),
        // A frame of 16 MiB that never comes.
        [PREFACE, SETTINGS, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat(),
        // A message of 4 GiB that never comes, and one that ends early.
        call(0, &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]),
        call(END_STREAM, &[0, 0, 0, 1, 0, 1, 2, 3]),
        // No protocol buffer, and one that claims to be compressed.
        call(END_STREAM, &[0, 0, 0, 0, 3, 0xff, 0xff, 0xff]),
        call(END_STREAM, &[1, 0, 0, 0, 3, 1, 2, 3]),
        opening,
    ]
}

#[test]
fn garbage_neither_ends_a_coordinator_nor_makes_it_grow() {
    let bench = Bench::new();
    let cluster = Cluster::start_at(&bench, "127.0.0.1:0", &[]);
    let (_, address) = cluster.url.split_once("://").unwrap();
    let knock = |rounds: usize| {
        let garbage = garbage();
        for said in garbage.iter().cycle().take(rounds * garbage.len()) {
            let mut stream = TcpStream::connect(address).unwrap();
            // It may have had enough before all is said.
            let _ = stream.write_all(said);
            let _ = stream.shutdown(Shutdown::Write);
            let patience = Some(Duration::from_millis(20));
            stream.set_read_timeout(patience).unwrap();
            let mut answer = [0; 1024];
            while matches!(stream.read(&mut answer), Ok(1..)) {}
        }
    };
    knock(2);
    let (files_before, memory_before) = held(&cluster.coordinator);
    // Some say nothing, and stay.
    let connect = |_| TcpStream::connect(address).unwrap();
    let silent: Vec<_> = (0..50).map(connect).collect();
    knock(30);
    let jobs = stdout(&["jobs", "--coordinator", &cluster.url, "-o", "json"]);
    assert_eq!(jobs.trim(), "[]");
    eventually("all to be forgotten", || {
        let (files, _) = held(&cluster.coordinator);
        (files <= files_before).then_some(())
    });
    let (_, memory) = held(&cluster.coordinator);
    assert!(
        memory < memory_before + (32 << 10),
        "{memory_before} KiB became {memory} KiB"
    );
    drop(silent);
}
