// Loaded before a Node client: every name ends at this machine, as behind `--host-resolver-rules` in a browser.
const dns = require("node:dns");
const lookup = dns.lookup;
dns.lookup = (name, options, callback) => lookup("127.0.0.1", options, callback);
