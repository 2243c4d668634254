-- The ticketing system of a small web shop. Read by qanat.samples.tickets into a fresh database at each start.
CREATE TABLE tickets (
    id INTEGER PRIMARY KEY,
    title TEXT NOT NULL,
    description TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'in_progress', 'waiting', 'resolved', 'closed')),
    priority TEXT NOT NULL CHECK (priority IN ('low', 'normal', 'high', 'urgent')),
    requester TEXT NOT NULL,
    assignee TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
);
CREATE TABLE comments (
    id INTEGER PRIMARY KEY,
    ticket_id INTEGER NOT NULL REFERENCES tickets (id),
    author TEXT NOT NULL,
    text TEXT NOT NULL,
    created_at TEXT NOT NULL
);
CREATE INDEX comments_by_ticket ON comments (ticket_id);
CREATE INDEX tickets_by_status ON tickets (status, priority);

INSERT INTO tickets VALUES
(4101, 'Checkout returns 502 after 14:00', 'Since about 14:00 every third card payment ends on a 502 page. The order is created, the payment is not. Retrying works most of the time.', 'open', 'urgent', 'Ines Moreau', 'Tomasz Lewandowski', '2026-09-28T12:20:00Z', '2026-09-28T13:05:00Z'),
(4102, 'Invoice PDF shows the old VAT number', 'Invoices printed since the move to the new legal entity still carry the old VAT number in the footer. Accounting cannot send them out.', 'open', 'high', 'Henrik Solberg', NULL, '2026-09-28T07:41:00Z', '2026-09-28T07:41:00Z'),
(4103, 'Password reset mail arrives in spam', 'Customers with Outlook addresses report that the reset mail lands in the junk folder. SPF passes, DKIM is missing on the new relay.', 'in_progress', 'high', 'Amara Diallo', 'Priya Raman', '2026-09-25T09:12:00Z', '2026-09-27T16:30:00Z'),
(4104, 'Search finds nothing for words with umlauts', 'Searching "Tuer" finds doors, searching "Tür" finds nothing. It worked before the index was rebuilt on Friday.', 'in_progress', 'normal', 'Jonas Weber', 'Mei Tanaka', '2026-09-24T14:03:00Z', '2026-09-26T10:15:00Z'),
(4105, 'New starter needs access to the warehouse system', 'Lucia Fernandez begins on Monday in the Rotterdam warehouse and needs the picker role and a badge.', 'waiting', 'normal', 'Bram de Vries', 'Sofia Lindqvist', '2026-09-23T11:25:00Z', '2026-09-25T08:00:00Z'),
(4106, 'Nightly stock import is two hours late', 'The import that should be done at 03:00 ended at 05:10 three nights in a row; the shop shows yesterday''s stock until then.', 'open', 'high', 'Bram de Vries', 'Mei Tanaka', '2026-09-27T06:50:00Z', '2026-09-27T09:44:00Z'),
(4107, 'Label printer in packing line 2 cuts labels short', 'The last centimetre of every label is missing. Changing the roll did not help.', 'resolved', 'normal', 'Pavel Novak', 'Sofia Lindqvist', '2026-09-18T08:30:00Z', '2026-09-22T12:10:00Z'),
(4108, 'Gift cards cannot be combined with a discount code', 'When a discount code is entered after a gift card, the checkout removes the gift card without saying so.', 'open', 'normal', 'Ines Moreau', NULL, '2026-09-26T15:37:00Z', '2026-09-26T15:37:00Z'),
(4109, 'VPN drops every ten minutes on hotel networks', 'The connection comes back by itself, but calls are cut. Happens in three hotels in Lisbon.', 'waiting', 'low', 'Amara Diallo', 'Priya Raman', '2026-09-15T18:22:00Z', '2026-09-21T09:00:00Z'),
(4110, 'Export of orders to CSV is missing the country', 'The column is there but empty for all orders since 1 September.', 'resolved', 'normal', 'Henrik Solberg', 'Tomasz Lewandowski', '2026-09-16T10:05:00Z', '2026-09-19T14:48:00Z'),
(4111, 'Mobile app crashes when a photo is attached to a return', 'Android 16 only. The crash report points at the image resizer.', 'in_progress', 'high', 'Yuki Mori', 'Tomasz Lewandowski', '2026-09-22T13:55:00Z', '2026-09-28T08:20:00Z'),
(4112, 'Certificate of the staging shop expired', 'Browsers refuse staging.shop.internal since this morning.', 'closed', 'high', 'Mei Tanaka', 'Priya Raman', '2026-09-10T07:15:00Z', '2026-09-10T09:02:00Z'),
(4113, 'Delivery dates ignore the bank holiday', 'Orders placed today are promised for Thursday, but the carrier does not drive that day.', 'open', 'normal', 'Pavel Novak', 'Mei Tanaka', '2026-09-28T09:30:00Z', '2026-09-28T09:30:00Z'),
(4114, 'Refund of order 88213 was paid twice', 'The customer reported it herself. Both refunds show the same reference.', 'waiting', 'urgent', 'Ines Moreau', 'Henrik Solberg', '2026-09-27T17:02:00Z', '2026-09-28T07:10:00Z'),
(4115, 'Meeting room screen shows a black picture', 'Room Oslo, second floor. The cable was changed already.', 'closed', 'low', 'Jonas Weber', 'Sofia Lindqvist', '2026-09-08T12:00:00Z', '2026-09-09T15:30:00Z'),
(4116, 'Two-factor codes are refused after the phone was changed', 'The old phone is gone. Identity was checked by a video call with the line manager.', 'resolved', 'high', 'Lucia Fernandez', 'Priya Raman', '2026-09-21T08:08:00Z', '2026-09-21T08:40:00Z');

INSERT INTO comments (ticket_id, author, text, created_at) VALUES
(4101, 'Tomasz Lewandowski', 'The payment gateway closes idle connections after 60 s, our pool keeps them for 90 s. That fits one in three.', '2026-09-28T12:48:00Z'),
(4101, 'Ines Moreau', 'About 40 orders are affected so far. Support has the list.', '2026-09-28T13:05:00Z'),
(4103, 'Priya Raman', 'The DKIM key for the new relay is published, waiting for the old TTL to run out.', '2026-09-27T16:30:00Z'),
(4104, 'Mei Tanaka', 'The new index has no ICU folding. Rebuilding it with the right analyser takes about an hour.', '2026-09-26T10:15:00Z'),
(4105, 'Sofia Lindqvist', 'Account is ready, the badge waits for a photo.', '2026-09-25T08:00:00Z'),
(4106, 'Mei Tanaka', 'The supplier''s file has grown from 80 to 310 MB: it now holds discontinued articles too. Asked them for the short one.', '2026-09-27T09:44:00Z'),
(4107, 'Sofia Lindqvist', 'The driver update had reset the label length to 100 mm. Set back to 110.', '2026-09-22T12:10:00Z'),
(4109, 'Priya Raman', 'Please try the profile that keeps the tunnel open over TCP 443.', '2026-09-21T09:00:00Z'),
(4110, 'Tomasz Lewandowski', 'The field was renamed by the address service. Export fixed and run again.', '2026-09-19T14:48:00Z'),
(4111, 'Tomasz Lewandowski', 'Reproduced: pictures above 50 megapixels run out of memory. Scaling by the camera intent avoids it.', '2026-09-28T08:20:00Z'),
(4112, 'Priya Raman', 'Renewed, and the renewal job now tells the channel when it fails.', '2026-09-10T09:02:00Z'),
(4114, 'Henrik Solberg', 'The bank confirms two transfers. Waiting for the customer to send one back.', '2026-09-28T07:10:00Z'),
(4116, 'Priya Raman', 'Old device removed, new one enrolled.', '2026-09-21T08:40:00Z');
