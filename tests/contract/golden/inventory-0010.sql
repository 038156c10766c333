-- An inventory of schema 10, with a row or more in each table.
PRAGMA user_version=10;
BEGIN TRANSACTION;
CREATE TABLE checkpoints (
    name   TEXT PRIMARY KEY,
    key    TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
) STRICT;
INSERT INTO "checkpoints" VALUES('booted','cccccc','[{"name":"booted","key":"cccccc","lab":"web","spec":{"template":"two-tier","description":"A client reaches a server through a router, over two networks.","parameters":{"image":"tiny","memory":"128 MiB"},"digest":"sha256:65a74056e1a4b6bf41b342084e3f2ab9d6bf4919273578bf4ef0f53c868b0ad3","nodes":[{"name":"router","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:4f:10:53:fe:c1","addresses":["10.10.1.1/24"],"gateway":"","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}},{"name":"eth1","network":"back","mac":"02:b8:0d:e9:99:93","addresses":["10.10.2.1/24"],"gateway":"","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":true,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null},{"name":"server","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"back","mac":"02:74:94:f9:d7:9c","addresses":["10.10.2.10/24"],"gateway":"10.10.2.1","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":false,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null},{"name":"client","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:a5:d1:8e:63:99","addresses":["10.10.1.10/24"],"gateway":"10.10.1.1","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":false,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[{"node":"router","condition":"running"},{"node":"server","condition":"running"}],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null}],"networks":[{"name":"front","link":false,"subnet":"10.10.1.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":"","vlan":0,"allow":[],"subnet6":"","dhcp":null,"dns":null,"port_security":"none","trusted":[]},{"name":"back","link":false,"subnet":"10.10.2.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":"","vlan":0,"allow":[],"subnet6":"","dhcp":null,"dns":null,"port_security":"none","trusted":[]}],"chapters":[]},"nodes":[{"name":"router","kvm":false,"memory":67108864,"machine_type":"pc-q35-7.2","fingerprint":"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff","image":"sha256:abababababababababababababababababababababababababababababababab","ram":"1111111111111111111111111111111111111111111111111111111111111111","ram_bytes":4096,"state":"2222222222222222222222222222222222222222222222222222222222222222","disks":[{"id":"root","name":"root.qcow2","layers":["3333333333333333333333333333333333333333333333333333333333333333"]}],"files":[],"ready":true,"agent":false,"balloon":false,"cpu":"host,migratable=on"}],"qemu":"7.2.22","message":"","created":"","cpu_model":"","cpu_flags":[],"spread":0.0,"pause":0.0,"origin":"","size":0,"owner":""}]');
CREATE TABLE classes (
    name   TEXT PRIMARY KEY,
    record TEXT NOT NULL
) STRICT;
INSERT INTO "classes" VALUES('k','[{"name":"k","checkpoint":"cccccc","source":"booted","students":[{"name":"ann","settings":{"seed":"1"}}],"spec":{"template":"two-tier","description":"A client reaches a server through a router, over two networks.","parameters":{"image":"tiny","memory":"128 MiB"},"digest":"sha256:65a74056e1a4b6bf41b342084e3f2ab9d6bf4919273578bf4ef0f53c868b0ad3","nodes":[{"name":"router","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:4f:10:53:fe:c1","addresses":["10.10.1.1/24"],"gateway":"","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}},{"name":"eth1","network":"back","mac":"02:b8:0d:e9:99:93","addresses":["10.10.2.1/24"],"gateway":"","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":true,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null},{"name":"server","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"back","mac":"02:74:94:f9:d7:9c","addresses":["10.10.2.10/24"],"gateway":"10.10.2.1","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":false,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null},{"name":"client","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:a5:d1:8e:63:99","addresses":["10.10.1.10/24"],"gateway":"10.10.1.1","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":false,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[{"node":"router","condition":"running"},{"node":"server","condition":"running"}],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null}],"networks":[{"name":"front","link":false,"subnet":"10.10.1.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":"","vlan":0,"allow":[],"subnet6":"","dhcp":null,"dns":null,"port_security":"none","trusted":[]},{"name":"back","link":false,"subnet":"10.10.2.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":"","vlan":0,"allow":[],"subnet6":"","dhcp":null,"dns":null,"port_security":"none","trusted":[]}],"chapters":[]},"first":"dddddd","queue":false,"settings":{},"lease":{"seconds":60.0,"until":"","keep":86400.0,"warn":[900.0,300.0,60.0]},"wanted":"running","made":{"ann":"eeeeee"},"again":[],"failed":{},"told":false,"created":"","owner":""}]');
CREATE TABLE events (
    seq       INTEGER PRIMARY KEY,
    time      TEXT NOT NULL,
    type      TEXT NOT NULL,
    lab       TEXT NOT NULL,
    node      TEXT NOT NULL,
    operation TEXT NOT NULL,
    subject   TEXT NOT NULL,
    data      TEXT NOT NULL
, owner TEXT NOT NULL DEFAULT '', lab_key TEXT NOT NULL DEFAULT '') STRICT;
INSERT INTO "events" VALUES(1,'2026-01-31T12:00:00.123456Z','node.ready','web','','','','{"seconds":1.5}','anna','aaaaaa');
INSERT INTO "events" VALUES(2,'2026-01-31T12:00:00.123456Z','daemon.started','','','','','{"adopted":1}','','');
CREATE TABLE images (
    name   TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT;
INSERT INTO "images" VALUES('tiny','sha256:abababababababababababababababababababababababababababababababab','[{"name":"tiny","format":"raw","digest":"sha256:abababababababababababababababababababababababababababababababab","size":4711,"virtual_size":0,"files":[],"cmdline":"","ready_pattern":"","agent":false,"cloud_init":false,"created":"2026-01-31T12:00:00.123456Z","source":""}]');
CREATE TABLE lab_leases (
    lab    TEXT PRIMARY KEY REFERENCES labs (name) ON DELETE CASCADE,
    record TEXT NOT NULL
) STRICT;
INSERT INTO "lab_leases" VALUES('web','[{"lab":"web","stage":"running","due":1700000000.0,"boot_due":7200.0,"boot_id":"b","left":3600.0,"keep":86400.0,"warn":[900.0,60.0],"pending":[60.0]}]');
CREATE TABLE labs (
    name     TEXT PRIMARY KEY,
    key      TEXT NOT NULL UNIQUE,
    wanted   TEXT NOT NULL,
    state    TEXT NOT NULL,
    reason   TEXT NOT NULL,
    created  TEXT NOT NULL,
    spec     TEXT NOT NULL,
    previous TEXT
, origin TEXT NOT NULL DEFAULT '', owner TEXT NOT NULL DEFAULT '') STRICT;
INSERT INTO "labs" VALUES('web','aaaaaa','running','running','','2026-01-31T12:00:00.123456Z','[{"template":"two-tier","description":"A client reaches a server through a router, over two networks.","parameters":{"image":"tiny","memory":"128 MiB"},"digest":"sha256:65a74056e1a4b6bf41b342084e3f2ab9d6bf4919273578bf4ef0f53c868b0ad3","nodes":[{"name":"router","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:4f:10:53:fe:c1","addresses":["10.10.1.1/24"],"gateway":"","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}},{"name":"eth1","network":"back","mac":"02:b8:0d:e9:99:93","addresses":["10.10.2.1/24"],"gateway":"","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":true,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null},{"name":"server","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"back","mac":"02:74:94:f9:d7:9c","addresses":["10.10.2.10/24"],"gateway":"10.10.2.1","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":false,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null},{"name":"client","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:a5:d1:8e:63:99","addresses":["10.10.1.10/24"],"gateway":"10.10.1.1","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":false,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[{"node":"router","condition":"running"},{"node":"server","condition":"running"}],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null}],"networks":[{"name":"front","link":false,"subnet":"10.10.1.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":"","vlan":0,"allow":[],"subnet6":"","dhcp":null,"dns":null,"port_security":"none","trusted":[]},{"name":"back","link":false,"subnet":"10.10.2.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":"","vlan":0,"allow":[],"subnet6":"","dhcp":null,"dns":null,"port_security":"none","trusted":[]}],"chapters":[]}]','[{"template":"two-tier","description":"A client reaches a server through a router, over two networks.","parameters":{"image":"tiny","memory":"128 MiB"},"digest":"sha256:65a74056e1a4b6bf41b342084e3f2ab9d6bf4919273578bf4ef0f53c868b0ad3","nodes":[{"name":"router","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:4f:10:53:fe:c1","addresses":["10.10.1.1/24"],"gateway":"","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}},{"name":"eth1","network":"back","mac":"02:b8:0d:e9:99:93","addresses":["10.10.2.1/24"],"gateway":"","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":true,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null},{"name":"server","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"back","mac":"02:74:94:f9:d7:9c","addresses":["10.10.2.10/24"],"gateway":"10.10.2.1","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":false,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null},{"name":"client","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:a5:d1:8e:63:99","addresses":["10.10.1.10/24"],"gateway":"10.10.1.1","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":false,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[{"node":"router","condition":"running"},{"node":"server","condition":"running"}],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null}],"networks":[{"name":"front","link":false,"subnet":"10.10.1.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":"","vlan":0,"allow":[],"subnet6":"","dhcp":null,"dns":null,"port_security":"none","trusted":[]},{"name":"back","link":false,"subnet":"10.10.2.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":"","vlan":0,"allow":[],"subnet6":"","dhcp":null,"dns":null,"port_security":"none","trusted":[]}],"chapters":[]}]','cccccc','anna');
INSERT INTO "labs" VALUES('idle','bbbbbb','running','running','','2026-01-31T12:00:00.123456Z','[{"template":"two-tier","description":"A client reaches a server through a router, over two networks.","parameters":{"image":"tiny","memory":"128 MiB"},"digest":"sha256:65a74056e1a4b6bf41b342084e3f2ab9d6bf4919273578bf4ef0f53c868b0ad3","nodes":[{"name":"router","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:4f:10:53:fe:c1","addresses":["10.10.1.1/24"],"gateway":"","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}},{"name":"eth1","network":"back","mac":"02:b8:0d:e9:99:93","addresses":["10.10.2.1/24"],"gateway":"","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":true,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null},{"name":"server","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"back","mac":"02:74:94:f9:d7:9c","addresses":["10.10.2.10/24"],"gateway":"10.10.2.1","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":false,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null},{"name":"client","image":"tiny","profile":"","vcpus":null,"memory":134217728,"disk":null,"disks":[],"disk_bus":"virtio","cdrom":null,"firmware":"bios","machine":"q35","display":"none","boot":["disk","cdrom"],"accel":"auto","restart":{"mode":"on-failure","limit":5,"window":300.0},"cmdline":"","nics":[{"name":"eth0","network":"front","mac":"02:a5:d1:8e:63:99","addresses":["10.10.1.10/24"],"gateway":"10.10.1.1","model":"virtio","dhcp":false,"slot":null,"down":false,"sends":{"rate":0,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}],"routes":[],"forwarding":false,"commands":[],"files":[],"startup":[],"on_fork":[],"depends_on":[{"node":"router","condition":"running"},{"node":"server","condition":"running"}],"ready":{"console":"","tcp_port":0,"agent":false,"command":[],"timeout":180.0},"publish":[],"cloud_init":null}],"networks":[{"name":"front","link":false,"subnet":"10.10.1.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":"","vlan":0,"allow":[],"subnet6":"","dhcp":null,"dns":null,"port_security":"none","trusted":[]},{"name":"back","link":false,"subnet":"10.10.2.0/24","uplink":"none","mtu":1500,"gateway":"none","gateway_address":"","vlan":0,"allow":[],"subnet6":"","dhcp":null,"dns":null,"port_security":"none","trusted":[]}],"chapters":[]}]',NULL,'','anna');
CREATE TABLE leases (
    lab     TEXT NOT NULL REFERENCES labs (name) ON DELETE CASCADE,
    address TEXT NOT NULL,
    network TEXT NOT NULL,
    mac     TEXT NOT NULL,
    name    TEXT NOT NULL,
    node    TEXT NOT NULL,
    nic     TEXT NOT NULL,
    PRIMARY KEY (lab, address)
) STRICT;
INSERT INTO "leases" VALUES('web','10.0.0.10','lan','','','','');
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
INSERT INTO "nodes" VALUES('web','router','k00000','00000000-0000-4000-8000-000000000000',200000,'running','stopped','2026-01-31T12:00:00.123456Z','',0,NULL,NULL,NULL,NULL);
INSERT INTO "nodes" VALUES('web','server','k00001','00000000-0000-4000-8000-000000000001',200001,'running','stopped','2026-01-31T12:00:00.123456Z','',0,NULL,NULL,NULL,NULL);
INSERT INTO "nodes" VALUES('web','client','k00002','00000000-0000-4000-8000-000000000002',200002,'running','stopped','2026-01-31T12:00:00.123456Z','',0,NULL,NULL,NULL,NULL);
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
, owner TEXT NOT NULL DEFAULT '', lab_key TEXT NOT NULL DEFAULT '') STRICT;
INSERT INTO "operations" VALUES(1,'op-000000000001','up','web','succeeded','','','{"v":1,"kind":"up","memory":{"web":1073741824},"before":["db"],"was":null,"undoing":"","keep":false,"force":false,"timeout":null,"new":false}','{}',NULL,'','');
CREATE TABLE plugins (
    name       TEXT PRIMARY KEY,
    enabled    INTEGER NOT NULL,
    settings   TEXT NOT NULL,
    token_hash TEXT NOT NULL
) STRICT;
INSERT INTO "plugins" VALUES('recorder',1,'{"keep":3}','');
CREATE TABLE pool_members (
    key    TEXT PRIMARY KEY,
    record TEXT NOT NULL
) STRICT;
INSERT INTO "pool_members" VALUES('ffffff','[{"key":"ffffff","checkpoint":"cccccc","state":"ready","nodes":[{"lab":"pool.ffffff","name":"router","key":"k10000","uuid":"00000000-0000-4000-8000-000000010000","uid":210000,"wanted":"running","state":"paused","since":"2026-01-31T12:00:00.123456Z","reason":"","process":null,"machine":null,"starts":0}],"created":"2026-01-31T12:00:00.123456Z"}]');
CREATE TABLE pools (
    checkpoint TEXT PRIMARY KEY,
    record     TEXT NOT NULL
) STRICT;
INSERT INTO "pools" VALUES('cccccc','[{"checkpoint":"cccccc","size":1,"created":"2026-01-31T12:00:00.123456Z"}]');
CREATE TABLE profiles (
    name   TEXT PRIMARY KEY,
    image  TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT;
INSERT INTO "profiles" VALUES('small','tiny','[{"name":"small","image":"tiny","vcpus":2,"memory":134217728,"disk":null,"firmware":"bios","description":""}]');
CREATE TABLE publications (
    lab       TEXT NOT NULL REFERENCES labs (name) ON DELETE CASCADE,
    node      TEXT NOT NULL,
    address   TEXT NOT NULL,
    host_port INTEGER NOT NULL,
    port      INTEGER NOT NULL,
    chosen    INTEGER NOT NULL,
    PRIMARY KEY (lab, node, address, host_port, port)
) STRICT;
INSERT INTO "publications" VALUES('web','router','127.0.0.1',0,22,40022);
CREATE TABLE tokens (
    name   TEXT PRIMARY KEY,
    hash   TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
) STRICT;
INSERT INTO "tokens" VALUES('k.ann','4444444444444444444444444444444444444444444444444444444444444444','[{"name":"k.ann","role":"student","hash":"4444444444444444444444444444444444444444444444444444444444444444","labs":[{"name":"web","key":"aaaaaa"}],"group":"k","created":"","expires":"","generation":0}]');
CREATE TABLE wires (
    lab    TEXT NOT NULL REFERENCES labs (name) ON DELETE CASCADE,
    node   TEXT NOT NULL,
    nic    TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (lab, node, nic)
) STRICT;
INSERT INTO "wires" VALUES('web','router','eth0','[{"lab":"web","node":"router","nic":"eth0","down":true,"sends":{"rate":1000000,"delay":0.0,"jitter":0.0,"loss":0.0,"duplicate":0.0,"corrupt":0.0}}]');
COMMIT;
