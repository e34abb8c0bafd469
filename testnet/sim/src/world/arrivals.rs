//! Messages that arrive, questions that end, and calls to silent hosts.

use mutualstore_dht::Peer;
use mutualstore_dht::custody;
use mutualstore_dht::ring::{self, Failure};

use super::super::message::{Body, Kind, Message};
use super::{DIAL, Event, Who, World};

impl World {
    pub(super) fn arrive(&mut self, message: Message) {
        let Some(host) = self.hosts.get_mut(message.to as usize) else {
            return;
        };
        if let Some(waiting) = &mut host.frozen {
            waiting.push(message);
            return;
        }
        if message.to_life.is_some_and(|life| life != host.life) {
            return;
        }
        let (up, dark) = (host.is_up(), host.dark);
        self.counters.work.count(&message.body);
        self.note(
            self.now
                ^ u64::from(message.from) << 20
                ^ u64::from(message.to) << 40
                ^ (Kind::from(&message.body) as u64 + 1) << 60,
        );
        if up {
            self.deliver(message);
        } else if !dark {
            self.refuse(&message);
        }
    }

    /// The port is closed.
    fn refuse(&mut self, message: &Message) {
        let body = match &message.body {
            Body::RingRequest(id, _) => Body::RingFailure(*id),
            Body::CustodyRequest(id, _) => Body::CustodyFailure(*id),
            Body::Writer(message) => match message.refused() {
                Some(message) => Body::Writer(message),
                None => return,
            },
            Body::Records(message) => match message.refused() {
                Some(message) => Body::Records(message),
                None => return,
            },
            Body::RingResponse(..)
            | Body::RingFailure(_)
            | Body::CustodyResponse(..)
            | Body::CustodyFailure(_)
            | Body::Hello { .. }
            | Body::Disconnect => return,
        };
        self.send(message.to, message.from, Some(message.from_life), body);
    }

    fn deliver(&mut self, message: Message) {
        let Message {
            from,
            from_life,
            to,
            body,
            ..
        } = message;
        let Some(sender) = self.host(from).map(|host| host.peer) else {
            return;
        };
        self.greet(to, from, from_life);
        match body {
            Body::RingRequest(id, request) => {
                let member = matches!(&request, ring::Request::Neighbours { member: true, .. });
                let response = self.act(to, |ring, now| ring.handle_request(now, sender, request));
                if let Some(response) = response {
                    self.check_answer(to, sender, &response);
                    if member {
                        self.check_asker(to, sender);
                    }
                    self.send(to, from, Some(from_life), Body::RingResponse(id, response));
                }
            }
            Body::RingResponse(id, response) => {
                self.unrest.answering = Some(sender);
                self.act(to, |ring, now| ring.handle_response(now, id, response));
                self.unrest.answering = None;
            }
            Body::RingFailure(id) => {
                self.act(to, |ring, now| ring.handle_failure(now, id, Failure::Unreachable));
            }
            Body::CustodyRequest(id, request) => {
                let response = match self.lying_answer(to, from, &request) {
                    Some(lie) => {
                        self.act(to, |ring, now| ring.hear(now, sender));
                        Some(lie)
                    }
                    None => self
                        .drive(to, |engine, now| {
                            engine.handle_custody_request(now, sender, request)
                        })
                        .flatten(),
                };
                if let Some(response) = response {
                    self.send(to, from, Some(from_life), Body::CustodyResponse(id, response));
                }
            }
            Body::CustodyResponse(id, response) => {
                if self.ended(to, id).is_some() {
                    self.drive(to, |engine, now| {
                        engine.handle_custody_response(now, id, response);
                    });
                }
            }
            Body::CustodyFailure(id) => {
                self.call_fails(to, id);
            }
            Body::Hello { contact, answer } => {
                self.act(to, |ring, now| ring.introduce(now, contact));
                if answer {
                    let hello = self.hello(to, false);
                    self.send(to, from, Some(from_life), hello);
                }
            }
            Body::Disconnect => {
                self.act(to, |ring, now| ring.handle_disconnect(now, sender));
            }
            Body::Writer(message) => self.writer_message(to, from, from_life, message),
            Body::Records(message) => self.record_message(to, from, from_life, message),
        }
    }

    /// A connection begins with a hello both ways: who was called learns the caller's contact, and the caller
    /// that of who answers.
    fn greet(&mut self, to: Who, from: Who, from_life: u32) {
        if !self.lives(from, from_life) {
            return;
        }
        let new = self
            .host_mut(to)
            .is_some_and(|host| host.greeted.insert(from, from_life) != Some(from_life));
        if new && let Body::Hello { contact, .. } = self.hello(from, false) {
            self.act(to, |ring, now| ring.introduce(now, contact));
        }
    }

    fn hello(&self, who: Who, answer: bool) -> Body {
        let contact = self.ring(who).map(|ring| ring.me().clone());
        match contact {
            Some(contact) => Body::Hello { contact, answer },
            None => Body::Disconnect,
        }
    }

    /// Calls a join address until the ring has members.
    pub(super) fn dial(&mut self, who: Who, life: u32, via: Who, wait: u64) {
        let Some(peer) = self.host(via).map(|host| host.peer) else {
            return;
        };
        let known = self.ring(who).is_some_and(|ring| ring.is_alive(peer));
        if !known {
            let hello = self.hello(who, true);
            self.send(who, via, None, hello);
            let again = Event::Dial(who, life, via, (wait * 2).min(DIAL.1));
            self.schedule(self.now + wait, again);
        }
    }

    /// Whom a request of custody was sent to, unless it has ended before.
    fn ended(&mut self, who: Who, id: custody::RequestId) -> Option<Peer> {
        self.host_mut(who)?.calls.remove(&id)
    }

    /// A request of custody gets no answer.
    pub(super) fn call_fails(&mut self, who: Who, id: custody::RequestId) {
        if let Some(peer) = self.ended(who, id) {
            self.drive(who, |engine, now| engine.handle_custody_failure(now, id, peer));
        }
    }
}
