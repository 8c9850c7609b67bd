// A custom runtime in Rust with nothing but its standard library: one file, one `rustc`, no crates.
// It asks the Lambda Runtime API for an event such as {"below": 100} and answers how many primes there are.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;

struct Response {
    id: String,
    body: Vec<u8>,
}

/// Reads one HTTP response: the id of its event, if it is one, and its body.
fn read(api: &mut impl BufRead) -> io::Result<Response> {
    let (mut id, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if api.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap_or(0),
                "lambda-runtime-aws-request-id" => id = value.trim().to_string(),
                _ => {}
            }
        }
    }
    let mut body = vec![0; length];
    api.read_exact(&mut body)?;
    Ok(Response { id, body })
}

fn primes_below(limit: usize) -> usize {
    let mut composite = vec![false; limit.max(2)];
    let mut count = 0;
    for n in 2..limit {
        if !composite[n] {
            count += 1;
            for multiple in (n * n..limit).step_by(n) {
                composite[multiple] = true;
            }
        }
    }
    count
}

/// The number behind "below": enough JSON for this event.
fn handle(event: &str) -> Result<String, String> {
    let digits: String = match event.split_once("\"below\"") {
        Some((_, rest)) => rest.trim_start_matches([':', ' ']).chars().take_while(|c| c.is_ascii_digit()).collect(),
        None => String::new(),
    };
    match digits.parse::<usize>() {
        Ok(limit) if limit <= 10_000_000 => Ok(format!("{{\"below\":{limit},\"primes\":{}}}", primes_below(limit))),
        _ => Err("send {\"below\": N}, N at most 10000000".to_string()),
    }
}

fn main() -> io::Result<()> {
    let base = "/2018-06-01/runtime/invocation";
    let mut out = TcpStream::connect(env::var("AWS_LAMBDA_RUNTIME_API").expect("AWS_LAMBDA_RUNTIME_API"))?;
    let mut api = BufReader::new(out.try_clone()?);
    loop {
        write!(out, "GET {base}/next HTTP/1.1\r\nHost: api\r\n\r\n")?;
        let event = read(&mut api)?;
        let (kind, body) = match handle(&String::from_utf8_lossy(&event.body)) {
            Ok(result) => ("response", result),
            Err(why) => {
                let text = why.replace('"', "\\\"");
                ("error", format!("{{\"errorType\":\"BadEvent\",\"errorMessage\":\"{text}\"}}"))
            }
        };
        println!("{kind} {body}");
        write!(
            out,
            "POST {base}/{}/{kind} HTTP/1.1\r\nHost: api\r\nContent-Length: {}\r\n\r\n{body}",
            event.id,
            body.len()
        )?;
        read(&mut api)?;
    }
}
