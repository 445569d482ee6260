"""Small synthetic catalogs in the shapes of the clouds' files; the prices are made up."""

from __future__ import annotations

AWS_HEADER = (
    "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,"
    "AvailabilityZone,Arch"
)
GPU = "\"{'Gpus': [{'Name': 'X', 'MemoryInfo': {'SizeInMiB': 24576}}]}\""


def aws(*rows: str) -> str:
    """An AWS file; rows as `type,name,count,price,spot,region,zone`."""
    lines = [AWS_HEADER]
    for row in rows:
        kind, name, count, price, spot, region, zone = row.split(",")
        info = GPU if name else ""
        lines.append(f"{kind},{name},{count},4,16,{info},{price},{spot},{region},{zone},x86_64")
    return "\n".join(lines) + "\n"


GOOD_AWS = aws(
    "m5.large,,,0.096,0.04,us-east-1,use1-az1",
    "g6.xlarge,L4,1,0.80,0.30,us-east-1,use1-az1",
    "g6.xlarge,L4,1,0.80,0.25,us-east-1,use1-az2",
    "g6.xlarge,L4,1,0.90,0.40,eu-west-1,euw1-az1",
    "p5.48xlarge,H100,8,55.04,20.5,us-east-1,use1-az1",
    "p5e.48xlarge,H200,8,,25.1,us-east-2,use2-az1",
)

PLAIN_HEADER = (
    "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,GpuInfo,SpotPrice"
)


def plain(*rows: str) -> str:
    """A file of Lambda's, Nebius's, DO's shape; rows as `type,name,count,price,region,spot`."""
    lines = [PLAIN_HEADER]
    for row in rows:
        kind, name, count, price, region, spot = row.split(",")
        lines.append(f"{kind},{name},{count},8,64,{price},{region},{GPU},{spot}")
    return "\n".join(lines) + "\n"


GOOD_LAMBDA = plain("gpu_1x_a10,A10,1,1.29,us-east-1,", "gpu_8x_h100_sxm5,H100,8,31.92,us-east-1,")


HEADERS: dict[str, str] = {
    "aws": AWS_HEADER
    + ",LocalDiskType,NVMeSupported,LocalDiskSize,LocalDiskCount,MaximumEfaInterfaces",
    "azure": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,"
    "Region,Generation",
    "gcp": "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,"
    "AvailabilityZone,Price,SpotPrice",
    "runpod": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Region,SpotPrice,Price,"
    "AvailabilityZone,GpuInfo",
    "oci": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,"
    "Region,AvailabilityZone",
    "verda": "InstanceType,UpstreamCloudId,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,"
    "Region,Price,SpotPrice",
    "primeintellect": "InstanceType,UpstreamCloudId,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,"
    "Price,Region,GpuInfo,SpotPrice,AvailabilityZone",
    "mithril": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,SpotPrice,Region,"
    "GpuInfo",
    "vast": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,"
    "Region",
}
"""Header lines by cloud; the others have `PLAIN_HEADER` (schema v8, as read in 2026)."""

JSON_INFO = '"{""Gpus"": [{""Name"": ""X"", ""MemoryInfo"": {""SizeInMiB"": 81920}}]}"'
LOWER_INFO = "\"{'gpus': [{'memoryinfo': {'sizeinmib': null}}]}\""
INFOS = {
    "azure": "H100",
    "gcp": "X",
    "verda": JSON_INFO,
    "primeintellect": JSON_INFO,
    "do": LOWER_INFO,
}


def synthetic(cloud: str) -> str:
    """A file of that cloud's shape: regions, zones, fractions, empty prices, duplicates, CPU rows."""
    if cloud == "gcp":
        return synthetic_gcp()
    header = HEADERS.get(cloud, PLAIN_HEADER)
    columns = header.split(",")
    zones = ("z1", "z2") if "AvailabilityZone" in columns else ("",)
    rows: list[dict[str, str]] = [
        {"InstanceType": "cpu.large", "Price": "0.1", "Region": "r1", "AvailabilityZone": "z1"}
    ]
    types = [
        ("one.l4", "L4", "1", 0.8),
        ("four.l4", "L4", "4", 3.3),
        ("eight.h100", "H100", "8", 55.0),
    ]
    if cloud in ("aws", "azure"):
        types.append(("half.a10", "A10", "0.5", 0.5))
    for kind, name, count, price in types:
        for r, region in enumerate(("r1", "r2")):
            for z, zone in enumerate(zones):
                spot = "" if kind == "four.l4" else f"{price * (0.3 + 0.05 * z + 0.01 * r):.4f}"
                rows.append(
                    {
                        "InstanceType": kind,
                        "AcceleratorName": name,
                        "AcceleratorCount": count,
                        "vCPUs": "8",
                        "MemoryGiB": "64.0",
                        "GpuInfo": INFOS.get(cloud, GPU),
                        "Price": f"{price * (1 + 0.1 * r):.4f}",
                        "SpotPrice": spot,
                        "Region": region,
                        "AvailabilityZone": zone and f"{region}-{zone}",
                        "UpstreamCloudId": "up",
                        "Arch": "x86_64",
                        "Generation": "V2",
                    }
                )
    rows.append({**rows[1], "InstanceType": "spot.only", "Price": ""})
    rows.append(rows[-1])
    lines = [",".join(row.get(column, "") for column in columns) for row in rows]
    return "\n".join([header, *lines]) + "\n"


def synthetic_gcp() -> str:
    """Host rows without accelerators, accelerator rows without hosts, over two regions' zones."""
    hosts = [
        ("g2-standard-4", 4, 16, 0.15),
        ("g2-standard-8", 8, 32, 0.29),
        ("g2-standard-24", 24, 96, 0.9),
        ("a2-highgpu-1g", 12, 85, 0.74),
        ("a3-highgpu-8g", 208, 1872, 9.4),
        ("a4-highgpu-8g", 224, 3968, 0),
        ("n1-standard-4", 4, 15, 0.19),
        ("n1-highmem-4", 4, 26, 0.24),
        ("n1-standard-8", 8, 30, 0.38),
        ("n1-highmem-8", 8, 52, 0.47),
        ("n2-standard-8", 8, 32, 0.39),
        ("n1-highcpu-8", 8, 7.2, 0.28),
    ]
    parts = [
        ("L4", 1, 0.56),
        ("L4", 2, 1.12),
        ("A100", 1, 2.93),
        ("H100", 8, 78.4),
        ("B200", 8, 90.2),
        ("T4", 1, 0.35),
        ("V100", 1, 2.48),
        ("A100", 16, 46.9),
    ]
    lines = [HEADERS["gcp"]]
    for r, region in enumerate(("us-central1", "europe-west4")):
        for zone in ("a", "b"):
            where = f"{region},{region}-{zone}"
            dear = 1 + 0.1 * r
            for kind, vcpus, memory, price in hosts:
                if zone == "b" and kind.startswith("a2"):
                    continue
                prices = f"{price * dear:.5f},{price * 0.3:.5f}"
                lines.append(f"{kind},{vcpus},{memory},,,,{where},{prices}")
            for name, count, price in parts:
                prices = f"{price * dear:.5f},{price * 0.35:.5f}"
                lines.append(f",,,{name},{count},X,{where},{prices}")
    lines.append(",,,tpu-v5p-8,1,tpu,us-central1,us-central1-a,4.2,1.1")
    return "\n".join(lines) + "\n"
