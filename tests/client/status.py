"""Reads a job's status as a stranger would: classes are generated from what the server's reflection says.

python status.py HOST:PORT JOB
Prints what it saw as JSON.
"""
import json
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def call(channel, pool, service, method, /, **fields):
    description = pool.FindServiceByName(service).FindMethodByName(method)
    request = GetMessageClass(description.input_type)
    answer = GetMessageClass(description.output_type)
    invoke = channel.unary_unary(
        f"/{service}/{method}", request_serializer=request.SerializeToString, response_deserializer=answer.FromString
    )
    return invoke(request(**fields), timeout=10)


def main():
    address, job = sys.argv[1:]
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = sorted(database.get_services())
        pool = DescriptorPool(database)
        status = call(channel, pool, "muster.v1.JobService", "GetStatus", job_id=job)
        health = call(channel, pool, "grpc.health.v1.Health", "Check", service="muster.v1.JobService")
        print(
            json.dumps(
                dict(
                    services=services,
                    job_id=status.job_id,
                    state=status.state,
                    step=status.step,
                    workers=len(status.workers),
                    fields=[field.name for field in status.DESCRIPTOR.fields],
                    health=health.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[health.status].name,
                )
            )
        )


main()
