-- The inventory of the labd that wrote schema 1, one row or more in each table.
PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE events (
    seq       INTEGER PRIMARY KEY,
    time      TEXT NOT NULL,
    type      TEXT NOT NULL,
    lab       TEXT NOT NULL,
    node      TEXT NOT NULL,
    operation TEXT NOT NULL,
    subject   TEXT NOT NULL,
    data      TEXT NOT NULL
) STRICT;
INSERT INTO "events" VALUES(1,'2026-01-31T12:00:00.123456Z','node.ready','web','router','op-000000000001','','{"seconds":1.5}');
INSERT INTO "events" VALUES(2,'2026-01-31T12:00:00.123456Z','daemon.started','','','','','{"adopted":1}');
CREATE TABLE images (
    name   TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT;
INSERT INTO "images" VALUES('tiny','sha256:abababababababababababababababababababababababababababababababab','[{"name":"tiny","format":"kernel","digest":"sha256:abababababababababababababababababababababababababababababababab","size":4711,"virtual_size":4711,"files":[],"cmdline":"quiet","ready_pattern":"","agent":false,"created":"2026-01-31T12:00:00.123456Z","source":"build"}]');
CREATE TABLE labs (
    name     TEXT PRIMARY KEY,
    key      TEXT NOT NULL UNIQUE,
    wanted   TEXT NOT NULL,
    state    TEXT NOT NULL,
    reason   TEXT NOT NULL,
    created  TEXT NOT NULL,
    spec     TEXT NOT NULL,
    previous TEXT
) STRICT;
INSERT INTO "labs" VALUES('web','aaaaaa','running','running','','2026-01-31T12:00:00.123456Z','[{"template":"two-tier","description":"A client reaches a server through a router, over two networks.","parameters":{"image":"tiny","memory":"128 MiB"},"digest":"sha256:65a74056e1a4b6bf41b342084e3f2ab9d6bf4919273578bf4ef0f53c868b0ad3","nodes":[{"name":"router","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:4f:10:53:fe:c1","addresses":["10.10.1.1/24"],"gateway":"","model":"virtio"},{"name":"eth1","network":"back","mac":"02:b8:0d:e9:99:93","addresses":["10.10.2.1/24"],"gateway":"","model":"virtio"}],"routes":[],"forwarding":true,"commands":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0}},{"name":"server","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"back","mac":"02:74:94:f9:d7:9c","addresses":["10.10.2.10/24"],"gateway":"10.10.2.1","model":"virtio"}],"routes":[],"forwarding":false,"commands":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0}},{"name":"client","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:a5:d1:8e:63:99","addresses":["10.10.1.10/24"],"gateway":"10.10.1.1","model":"virtio"}],"routes":[],"forwarding":false,"commands":[],"depends_on":[{"node":"router","condition":"running"},{"node":"server","condition":"running"}],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0}}],"networks":[{"name":"front","link":false,"subnet":"10.10.1.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":""},{"name":"back","link":false,"subnet":"10.10.2.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":""}]}]','[{"template":"two-tier","description":"","parameters":{"memory":"64 MiB"},"digest":"","nodes":[{"name":"n0","image":"tiny","profile":"","vcpus":null,"memory":null,"disk":null,"disks":[],"disk_bus":"virtio","firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"no","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"lan","mac":"02:00:00:00:00:01","addresses":[],"gateway":"","model":"virtio"}],"routes":[],"forwarding":false,"commands":[["ip","link"]],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0}},{"name":"n1","image":"tiny","profile":"","vcpus":null,"memory":null,"disk":null,"disks":[],"disk_bus":"virtio","firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"no","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"lan","mac":"02:00:00:00:00:01","addresses":[],"gateway":"","model":"virtio"}],"routes":[],"forwarding":false,"commands":[["ip","link"]],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0}}],"networks":[{"name":"lan","link":false,"subnet":"","uplink":"none","mtu":1500,"gateway":"none","gateway_address":""}]}]');
INSERT INTO "labs" VALUES('idle','bbbbbb','stopped','stopped','taken down','2026-01-31T12:00:00.123456Z','[{"template":"two-tier","description":"A client reaches a server through a router, over two networks.","parameters":{"image":"tiny","memory":"128 MiB"},"digest":"sha256:65a74056e1a4b6bf41b342084e3f2ab9d6bf4919273578bf4ef0f53c868b0ad3","nodes":[{"name":"router","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:4f:10:53:fe:c1","addresses":["10.10.1.1/24"],"gateway":"","model":"virtio"},{"name":"eth1","network":"back","mac":"02:b8:0d:e9:99:93","addresses":["10.10.2.1/24"],"gateway":"","model":"virtio"}],"routes":[],"forwarding":true,"commands":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0}},{"name":"server","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"back","mac":"02:74:94:f9:d7:9c","addresses":["10.10.2.10/24"],"gateway":"10.10.2.1","model":"virtio"}],"routes":[],"forwarding":false,"commands":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0}},{"name":"client","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:a5:d1:8e:63:99","addresses":["10.10.1.10/24"],"gateway":"10.10.1.1","model":"virtio"}],"routes":[],"forwarding":false,"commands":[],"depends_on":[{"node":"router","condition":"running"},{"node":"server","condition":"running"}],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0}}],"networks":[{"name":"front","link":false,"subnet":"10.10.1.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":""},{"name":"back","link":false,"subnet":"10.10.2.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":""}]}]',NULL);
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "meta" VALUES('host_id','0123abcd');
INSERT INTO "meta" VALUES('published','1');
CREATE TABLE nodes (
    lab     TEXT NOT NULL REFERENCES labs (name) ON DELETE CASCADE,
    name    TEXT NOT NULL,
    key     TEXT NOT NULL UNIQUE,
    uuid    TEXT NOT NULL UNIQUE,
    uid     INTEGER NOT NULL UNIQUE,
    wanted  TEXT NOT NULL,
    state   TEXT NOT NULL,
    since   TEXT NOT NULL,
    reason  TEXT NOT NULL,
    starts  INTEGER NOT NULL,
    pid     INTEGER,
    ticks   INTEGER,
    boot_id TEXT,
    machine TEXT,
    PRIMARY KEY (lab, name)
) STRICT;
INSERT INTO "nodes" VALUES('web','router','k00000','00000000-0000-4000-8000-000000000000',200000,'running','ready','2026-01-31T12:00:00.123456Z','',1,42,4711,'b','[{"lab":"web","node":"router","key":"k00000","uuid":"00000000-0000-4000-8000-000000000000","uid":200000,"folder":"/state/nodes/k00000","run":"/run/n/k00000","vcpus":1,"memory":67108864,"machine":"q35","firmware":"bios","display":"none","kvm":false,"disks":[{"id":"root","path":"/state/nodes/root.qcow2","format":"qcow2","backing":[["/images/x/disk","raw"]],"bus":"virtio","read_only":false,"cdrom":false,"serial":""}],"boot":[],"kernel":null,"initrd":null,"cmdline":"","nics":[],"config":"AP_-IG5vdCBVVEYtOA=="}]');
INSERT INTO "nodes" VALUES('web','server','k00001','00000000-0000-4000-8000-000000000001',200001,'running','ready','2026-01-31T12:00:00.123456Z','',1,42,4711,'b','[{"lab":"web","node":"server","key":"k00001","uuid":"00000000-0000-4000-8000-000000000001","uid":200001,"folder":"/state/nodes/k00001","run":"/run/n/k00001","vcpus":1,"memory":67108864,"machine":"q35","firmware":"bios","display":"none","kvm":false,"disks":[{"id":"root","path":"/state/nodes/root.qcow2","format":"qcow2","backing":[["/images/x/disk","raw"]],"bus":"virtio","read_only":false,"cdrom":false,"serial":""}],"boot":[],"kernel":null,"initrd":null,"cmdline":"","nics":[],"config":"AP_-IG5vdCBVVEYtOA=="}]');
INSERT INTO "nodes" VALUES('web','client','k00002','00000000-0000-4000-8000-000000000002',200002,'running','ready','2026-01-31T12:00:00.123456Z','',1,42,4711,'b','[{"lab":"web","node":"client","key":"k00002","uuid":"00000000-0000-4000-8000-000000000002","uid":200002,"folder":"/state/nodes/k00002","run":"/run/n/k00002","vcpus":1,"memory":67108864,"machine":"q35","firmware":"bios","display":"none","kvm":false,"disks":[{"id":"root","path":"/state/nodes/root.qcow2","format":"qcow2","backing":[["/images/x/disk","raw"]],"bus":"virtio","read_only":false,"cdrom":false,"serial":""}],"boot":[],"kernel":null,"initrd":null,"cmdline":"","nics":[],"config":"AP_-IG5vdCBVVEYtOA=="}]');
INSERT INTO "nodes" VALUES('idle','router','k00009','00000000-0000-4000-8000-000000000009',200009,'running','stopped','2026-01-31T12:00:00.123456Z','taken down',0,NULL,NULL,NULL,NULL);
CREATE TABLE operations (
    n        INTEGER PRIMARY KEY,
    id       TEXT NOT NULL UNIQUE,
    kind     TEXT NOT NULL,
    lab      TEXT NOT NULL,
    state    TEXT NOT NULL,
    created  TEXT NOT NULL,
    finished TEXT NOT NULL,
    request  TEXT NOT NULL,
    progress TEXT NOT NULL,
    error    TEXT
) STRICT;
INSERT INTO "operations" VALUES(1,'op-000000000001','up','web','succeeded','2026-01-31T12:00:00.123456Z','2026-01-31T12:00:00.123456Z','{"boot":true}','{"done":3,"total":3,"text":"ready"}',NULL);
INSERT INTO "operations" VALUES(2,'op-000000000002','down','idle','failed','2026-01-31T12:00:00.123456Z','2026-01-31T12:00:00.123456Z','{}','{}','{"code":"world-failed","message":"no"}');
CREATE TABLE plugins (
    name       TEXT PRIMARY KEY,
    enabled    INTEGER NOT NULL,
    settings   TEXT NOT NULL,
    token_hash TEXT NOT NULL
) STRICT;
INSERT INTO "plugins" VALUES('recorder',1,'{"keep":3}','0000000000000000000000000000000000000000000000000000000000000000');
CREATE TABLE profiles (
    name   TEXT PRIMARY KEY,
    image  TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT;
INSERT INTO "profiles" VALUES('small','tiny','[{"name":"small","image":"tiny","vcpus":2,"memory":134217728,"disk":null,"firmware":"bios","description":""}]');
COMMIT;
