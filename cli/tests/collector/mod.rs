//! A collector's double on loopback, and the real binary run against it.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

/// Runs the command; answers each path by `answer`. Returns what it printed, and the paths it asked for.
pub fn run(arguments: &[&str], answer: impl Fn(&str) -> Value + Send + 'static) -> (Output, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 8192];
            let length = stream.read(&mut buffer).unwrap();
            let path = String::from_utf8_lossy(&buffer[..length]).split(' ').nth(1).unwrap_or_default().to_owned();
            let body = answer(&path).to_string();
            log.lock().unwrap().push(path);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    let output = Command::new(env!("CARGO_BIN_EXE_railwatch"))
        .args(arguments)
        .env("RAILWATCH_COLLECTOR", url)
        .env("RAILWATCH_TOKEN", "token")
        .output()
        .unwrap();
    let asked = asked.lock().unwrap().clone();
    (output, asked)
}

/// What it printed.
pub fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}
