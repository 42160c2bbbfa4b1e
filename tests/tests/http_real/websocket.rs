//! WebSockets, both ends from a library.

use std::time::Duration;

use tests::part::Part;
use tests::place::Place;
use tests::python::script;

use crate::Front;

#[test]
fn websocket_messages_of_every_size_come_back_and_the_connection_closes_cleanly() {
    let place = Place::new("websocket").unwrap();
    let server = place.at(9001);
    let mut command = script("websocket_echo.py");
    command.args([server.ip().to_string(), server.port().to_string()]);
    let mut echo = Part::start("echo", command, place.folder()).unwrap();
    echo.wait_listening(server).unwrap();
    // Shorter than the conversation: an upgraded connection has the tunnel's time limit.
    let front = Front::start(&place, server, |site| {
        site.defaults = "timeouts = { request = \"1s\", keep_alive = \"1s\", tunnel = \"20s\" }".into();
    });
    let clients: Vec<Part> = (0..4)
        .map(|number| {
            let mut command = script("websocket_client.py");
            command.args([format!("ws://{}/chat", front.site.bind), "300".into()]);
            Part::start(&format!("client-{number}"), command, place.folder()).unwrap()
        })
        .collect();
    for mut client in clients {
        let status = client.process().wait(Duration::from_secs(60)).unwrap();
        assert!(status.success() && client.tail().contains("closed with 1000"), "{}", client.tail());
    }
}
