"""The client: everything that an application does with HCE-FS, in one object.

Composes the parts, each in a module of its own: the ledger, nodes, manifests and
keys, records and grants, put, get, listing, classes of records, requests for access,
the care of keys, emergencies, bundles, evidence, certificates.  One client is one account; use it
from one event loop; calls may run at the same time.
"""

from __future__ import annotations

from hcefs.client.audit import AuditClient
from hcefs.client.bundle import BundleClient
from hcefs.client.certify import CertificateClient
from hcefs.client.emergency import EmergencyClient
from hcefs.client.evidence import EvidenceClient
from hcefs.client.key_care import KeyClient
from hcefs.client.requests import RequestClient


class Client(
    EmergencyClient,
    RequestClient,
    KeyClient,
    BundleClient,
    EvidenceClient,
    CertificateClient,
    AuditClient,
):
    """A client of one cluster for one account::

    async with Client(load_connection(path), load_account(file)) as client:
        receipt = await client.put(record, Path("scan.dcm"))
    """
