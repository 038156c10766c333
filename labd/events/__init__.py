"""Events on their way out: MQTT, the publisher that drains the outbox, the managed broker.

    mqtt.py         addresses and connections (the only user of aiomqtt; the plugin SDK uses it too)
    messages.py     pure: events and states to topics and payloads
    publisher.py    outbox -> broker, at least once and in order
    accounts.py     pure: users, ACL and configuration of mosquitto
    broker.py       mosquitto as a supervised child

`docs/events.md` is the contract.
"""
