//! A key-value store over loopback TCP, for tests: the test process serves, its peers call.
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use muster_c10d::{LocalStore, StoreBackend, StoreError};

/// Serves `store` until the process ends, and says where.
pub fn serve(store: Arc<LocalStore>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                // A peer that was killed in the middle of a call is the point of some tests.
                let _ = answer(stream, &store);
            });
        }
    });
    address
}

fn answer(mut stream: TcpStream, store: &LocalStore) -> io::Result<()> {
    let request = receive(&mut stream)?;
    let (operation, arguments) = request.split_first().unwrap();
    let text = |index: usize| std::str::from_utf8(&arguments[index]).unwrap();
    let number = |index: usize| text(index).parse::<i64>().unwrap();
    let timeout = |index: usize| Duration::from_millis(number(index) as u64);
    let keys = || (1..arguments.len()).map(text).collect::<Vec<_>>();
    let decimal = |value: i64| value.to_string().into_bytes();
    let outcome = match std::str::from_utf8(operation).unwrap() {
        "set" => store.set(text(0), &arguments[1]).map(|()| vec![]),
        "get" => store.get(text(0), timeout(1)),
        "add" => store.add(text(0), number(1)).map(decimal),
        "compare_set" => store.compare_set(text(0), &arguments[1], &arguments[2]),
        "check" => store.check(&keys()).map(|present| decimal(present.into())),
        "wait" => store.wait(&keys(), timeout(0)).map(|()| vec![]),
        "delete" => store.delete(text(0)).map(|deleted| decimal(deleted.into())),
        "num_keys" => store.num_keys().map(decimal),
        other => panic!("{other}"),
    };
    match outcome {
        Ok(value) => send(&mut stream, &[b"ok", &value]),
        Err(StoreError::TimedOut(_)) => send(&mut stream, &[b"late", b""]),
        Err(error) => send(&mut stream, &[b"error", error.to_string().as_bytes()]),
    }
}

/// The calling end.
pub struct RemoteStore(pub SocketAddr);

impl RemoteStore {
    fn call(&self, fields: &[&[u8]]) -> Result<Vec<u8>, StoreError> {
        let exchange = || {
            let mut stream = TcpStream::connect(self.0)?;
            send(&mut stream, fields)?;
            receive(&mut stream)
        };
        let reply = exchange().map_err(|error| StoreError::Other(error.to_string()))?;
        match &*reply[0] {
            b"ok" => Ok(reply[1].clone()),
            b"late" => Err(StoreError::TimedOut(Duration::ZERO)),
            _ => Err(StoreError::Other(
                String::from_utf8_lossy(&reply[1]).into_owned(),
            )),
        }
    }

    fn number(&self, fields: &[&[u8]]) -> Result<i64, StoreError> {
        Ok(String::from_utf8(self.call(fields)?)
            .unwrap()
            .parse()
            .unwrap())
    }
}

fn millis(timeout: Duration) -> String {
    timeout.as_millis().to_string()
}

impl StoreBackend for RemoteStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.call(&[b"set", key.as_bytes(), value]).map(drop)
    }
    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, StoreError> {
        self.call(&[b"get", key.as_bytes(), millis(timeout).as_bytes()])
    }
    fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        self.number(&[b"add", key.as_bytes(), delta.to_string().as_bytes()])
    }
    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        self.call(&[b"compare_set", key.as_bytes(), expected, desired])
    }
    fn check(&self, keys: &[&str]) -> Result<bool, StoreError> {
        let mut fields: Vec<&[u8]> = vec![b"check", b"0"];
        fields.extend(keys.iter().map(|key| key.as_bytes()));
        Ok(self.number(&fields)? == 1)
    }
    fn wait(&self, keys: &[&str], timeout: Duration) -> Result<(), StoreError> {
        let timeout = millis(timeout);
        let mut fields: Vec<&[u8]> = vec![b"wait", timeout.as_bytes()];
        fields.extend(keys.iter().map(|key| key.as_bytes()));
        self.call(&fields).map(drop)
    }
    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.number(&[b"delete", key.as_bytes()])? == 1)
    }
    fn num_keys(&self) -> Result<i64, StoreError> {
        self.number(&[b"num_keys"])
    }
}

fn send(stream: &mut TcpStream, fields: &[&[u8]]) -> io::Result<()> {
    let mut message = (fields.len() as u32).to_le_bytes().to_vec();
    for field in fields {
        message.extend((field.len() as u32).to_le_bytes());
        message.extend(*field);
    }
    stream.write_all(&message)
}

fn receive(stream: &mut TcpStream) -> io::Result<Vec<Vec<u8>>> {
    let mut length = || -> io::Result<usize> {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes) as usize)
    };
    let count = length()?;
    let mut fields = Vec::new();
    for _ in 0..count {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes)?;
        let mut field = vec![0; u32::from_le_bytes(bytes) as usize];
        stream.read_exact(&mut field)?;
        fields.push(field);
    }
    Ok(fields)
}
