//! What bad input gets: an answer that names it, and a line that goes on.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use line::process;
use tests::Line;

#[test]
fn a_bad_configuration_names_file_line_key_and_the_nearest_known_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let programs = tests::built()?;
    let check = |program: &Path, text: &str, words: &[&str]| -> Result<()> {
        let file = folder.path().join("settings.toml");
        std::fs::write(&file, text)?;
        let mut command = process::command(program, folder.path());
        command.arg("--config").arg(&file).arg("check");
        let done = process::output(command, "", Duration::from_secs(60))?;
        assert_eq!(done.status.code(), Some(78), "{done:?}");
        let said = String::from_utf8_lossy(&done.stderr);
        for word in words {
            assert!(said.contains(word), "no {word} in: {said}");
        }
        Ok(())
    };
    for program in [&programs.agent, &programs.hub] {
        check(
            program,
            "# a comment\n\nno_such_key = 1\n",
            &["settings.toml", "no_such_key", "3"],
        )?;
        check(program, "not toml at all\n", &["settings.toml", "1"])?;
    }
    check(&programs.hub, "data_dri = \"/x\"\n", &["data_dir"])?;
    check(&programs.agent, "log_levl = \"info\"\n", &["log.level"])?;
    Ok(())
}

#[test]
fn a_bad_check_file_is_refused_with_its_place() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("broken.yaml");
    std::fs::write(
        &file,
        "id: aws.s3.broken\ntype: aws.s3.bucket\nseverity: terrible\npass: r.Nope ==\n",
    )?;
    let mut command = process::command(&tests::built()?.hub, folder.path());
    command.args(["check", "test"]).arg(&file);
    let done = process::output(command, "", Duration::from_secs(60))?;
    assert!(!done.status.success(), "{done:?}");
    let said =
        String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    assert!(said.contains("broken.yaml"), "{said}");
    Ok(())
}

#[test]
fn the_built_in_checks_pass_their_own_tests() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = process::command(&tests::built()?.hub, folder.path());
    command.args(["check", "test"]);
    process::success(
        process::output(command, "", Duration::from_secs(60))?,
        "zero-x-hub check test",
    )?;
    Ok(())
}

#[test]
fn noise_on_its_ports_does_not_stop_a_hub() -> Result<()> {
    let line = Line::start()?;
    let noise = UdpSocket::bind("127.0.0.1:0")?;
    for length in [0, 1, 20, 1200, 1452, 9000] {
        // What starts like a long QUIC header, and what does not.
        for first in [0xc3_u8, 0x40, 0x00, 0xff] {
            let mut datagram = vec![0xa5; length];
            if let Some(byte) = datagram.first_mut() {
                *byte = first;
            }
            noise.send_to(&datagram, line.hub.agent_address())?;
        }
    }
    let api = line.hub.url().replace("https://", "");
    for text in ["GET / HTTP/1.1\r\n\r\n", "\u{16}\u{3}\u{1}", "\0\0\0\0\0"] {
        let mut stream = TcpStream::connect(&api)?;
        // The hub may have closed the connection already.
        let _closed = stream.write_all(text.as_bytes());
    }
    let agent = line.agent("agent")?;
    agent.source_add("host", "here", &[])?;
    agent.run_once()?;
    assert!(!line.client.rows(&["resource", "list"])?.is_empty());
    Ok(())
}

#[test]
fn an_unknown_word_is_refused_with_the_nearest_known_one() -> Result<()> {
    let line = Line::start()?;
    let agent = line.unenrolled("agent")?;
    let done = agent.output(
        &["source", "add", "aws", "--name", "n", "regoins=eu-west-1"],
        "",
    )?;
    assert_eq!(done.status.code(), Some(64), "{done:?}");
    assert!(
        String::from_utf8_lossy(&done.stderr).contains("regions"),
        "{done:?}"
    );
    let done = line
        .client
        .output(&["finding", "list", "--filter", "severty=high"], "")?;
    assert!(!done.status.success(), "{done:?}");
    assert!(
        String::from_utf8_lossy(&done.stderr).contains("severity"),
        "{done:?}"
    );
    Ok(())
}
