//! Target `xds`: one stream of a client that sends anything, while the store changes.
//!
//! The input is a list of steps, see [`Step`]. The stream is the one of the server, without HTTP/2: chunks of the request
//! body go in, frames of the response come out. The client has proven nothing, so it must not get private keys.

mod steps;
mod stream;

use tokio::{
    runtime::{Builder, Runtime},
    task,
};

use self::{
    steps::{Step, Steps, encoded},
    stream::FuzzedStream,
};
use crate::{FuzzTarget, mutation::InputFormat};

pub(crate) const TARGET: FuzzTarget = FuzzTarget {
    name: "xds",
    format: InputFormat::Bytes,
    run,
    seeds,
};

/// Steps of one input: more add nothing but time.
const MAX_STEPS: usize = 64;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

fn run(input: &[u8]) {
    let mut steps = Steps::new(input);
    let service = steps.byte();
    RUNTIME.with(|runtime| {
        // Without a budget, every poll goes on until nothing is left to do.
        runtime.block_on(task::unconstrained(async {
            let mut stream = FuzzedStream::open(service).await;
            for step in steps.take(MAX_STEPS) {
                stream.take(step);
                if !stream.answer().await {
                    break;
                }
            }
            stream.close().await;
        }));
    });
}

/// Dialogues of a well-behaved client of each variant and service, and steps that each limit stops.
fn seeds() -> Vec<Vec<u8>> {
    let subscribe = |kind, names| Step::Request {
        kind,
        subscribe: names,
        unsubscribe: 0,
        flags: steps::NODE | steps::LAST_NONCE,
    };
    let answer = |kind, flags| Step::Request {
        kind,
        subscribe: 0,
        unsubscribe: 0,
        flags: steps::LAST_NONCE | flags,
    };
    let put = |kind, name, needs| Step::Put {
        kind,
        name,
        content: 7,
        needs,
    };
    let dialogue = vec![
        subscribe(0, 0),
        answer(0, 0),
        subscribe(1, 0b11),
        answer(1, 0),
        subscribe(2, 0),
        answer(2, 0),
        subscribe(3, 0b1),
        answer(3, 0),
        subscribe(4, 0b111),
        put(0, 1, 0),
        answer(0, steps::NACK),
        put(3, 0, 0b11),
        answer(3, 0),
        Step::Remove { kind: 0, name: 0 },
        answer(0, 0),
        Step::View { is_present: false },
        Step::View { is_present: true },
        answer(2, steps::VERSIONS),
    ];
    let hostile = vec![
        Step::Message(vec![0x0a, 0x06, 0x0a, 0x04, b'n', b'o', b'd', b'e']),
        Step::Names {
            kind: 1,
            count: 40,
            length: 200,
        },
        Step::Names {
            kind: 0,
            count: 255,
            length: 255,
        },
        Step::Chunk(vec![0, 0, 0, 0, 3, 1, 2]),
        Step::Chunk(vec![3, 1, 0, 0, 0, 0]),
        Step::End,
    ];
    let services = 0..2 * (1 + steps::TYPES);
    services
        .flat_map(|service| {
            let wildcards = vec![subscribe(0, 0b1000), answer(0, 0), subscribe(2, 0b1001)];
            [&dialogue, &hostile, &wildcards].map(|steps| encoded(service, steps))
        })
        .collect()
}
