#!/bin/bash
# A real object store for the longer tests: one node of Ceph in $R, all in memory, that listens on the loopback only.
# Its gateway is at $PORT, its monitor at $MON_PORT; the keys are test and testtest.
#   rgw.sh start   returns when it answers      rgw.sh stop   returns when it has ended
set -e
export CEPH_CONF=$R/ceph.conf

if [ "$1" = stop ]; then
    for pid in $(cat "$R"/{rgw,osd,mgr,mon}.pid 2>/dev/null); do
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null || true
    done
    exit 0
fi

mkdir -p "$R"/{mon,osd,mgr,rgw,run,log}
cd "$R"
fsid=$(cat /proc/sys/kernel/random/uuid)
cat >ceph.conf <<END
[global]
fsid = $fsid
mon_host = v2:127.0.0.1:$MON_PORT/0
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
keyring = $R/keyring
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
run_dir = $R/run
admin_socket = $R/run/\$name.asok
log_file = $R/log/\$name.log
log_to_stderr = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
osd_crush_chooseleaf_type = 0
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
mon_max_pg_per_osd = 500
mon_data_avail_warn = 2
mon_data_avail_crit = 1
[mon.a]
mon_data = $R/mon
[osd.0]
osd_data = $R/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
osd_memory_target = 939524096
osd_op_num_shards = 2
[mgr.a]
mgr_data = $R/mgr
[client.rgw.a]
rgw_frontends = beast endpoint=127.0.0.1:$PORT
rgw_data = $R/rgw
rgw_thread_pool_size = 32
rgw_dns_name = 127.0.0.1
END

key() { ceph-authtool "$@" >/dev/null; }
key --create-keyring keyring --gen-key -n mon. --cap mon 'allow *'
key keyring --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
key keyring --gen-key -n mgr.a --cap mon 'allow profile mgr' --cap osd 'allow *'
key keyring --gen-key -n osd.0 --cap mon 'allow profile osd' --cap mgr 'allow profile osd' --cap osd 'allow *'
key keyring --gen-key -n client.rgw.a --cap mon 'allow rw' --cap osd 'allow rwx' --cap mgr 'allow rw'

run() { # NAME COMMAND...: a daemon, with its process id in a file
    "${@:2}" >"log/$1.out" 2>&1 &
    echo $! >"$1.pid"
}
monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$MON_PORT]" monmap >/dev/null
ceph-mon --mkfs -i a --monmap monmap --keyring keyring >/dev/null 2>&1
run mon ceph-mon -f -i a
sleep 2
run mgr ceph-mgr -f -i a
osd=$(cat /proc/sys/kernel/random/uuid)
timeout 30 ceph osd new "$osd" >/dev/null 2>&1
ceph-osd -i 0 --mkfs --osd-uuid "$osd" >log/mkfs.out 2>&1
run osd ceph-osd -f -i 0
for _ in $(seq 30); do timeout 10 ceph osd stat 2>/dev/null | grep -q '1 up' && break; sleep 1; done
run rgw radosgw -f -n client.rgw.a
for _ in $(seq 90); do (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null && break; sleep 1; done
user=(--uid=t --display-name=t --access-key=test --secret-key=testtest)
timeout 60 radosgw-admin -n client.rgw.a user create "${user[@]}" >/dev/null 2>&1
