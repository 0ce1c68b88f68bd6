//! A backend as a process of its own, to be killed: `backend ADDRESS NAME`. Prints its address once it listens.

use std::io::Write;
use std::net::TcpListener;

use outrigger_tests::backend::Backend;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, address, name] = &arguments[..] else {
        return Err(std::io::Error::other("usage: backend ADDRESS NAME"));
    };
    let name = name.clone();
    let backend = Backend::on(TcpListener::bind(address)?, move |exchange| exchange.reply(&name));
    println!("{}", backend.address);
    std::io::stdout().flush()?;
    // Until it is killed, or its parent has gone.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
