@0xd2a5d5b5c3f0a1e7;
# The registration interface in our own words: only the interface's id and the ordinals matter on the wire.
struct Auth { account @0 :Text; secret @1 :Data; }
struct ClientInfo { id @0 :Data; features @1 :List(Text); version @2 :Text; arch @3 :Text; }
struct Options { client @0 :ClientInfo; originIp @1 :Data; replace @2 :Bool; compression @3 :UInt8; attempts @4 :UInt8; }
struct Failure { cause @0 :Text; retryAfter @1 :Int64; retry @2 :Bool; }
struct Details { uuid @0 :Data; location @1 :Text; managed @2 :Bool; }
struct Response { result :union { error @0 :Failure; details @1 :Details; } }
struct Wrapper { response @0 :Response; }
interface Registration @0xf71695ec7fe85497 {
  registerConnection @0 (auth :Auth, tunnelId :Data, connIndex :UInt8, options :Options) -> (result :Response);
  unregisterConnection @1 () -> ();
  updateLocalConfiguration @2 (config :Data) -> ();
}
