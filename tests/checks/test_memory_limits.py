"""How fast processors, chipsets and boards let RAM run; names as firmware reports them (linuxhw/DMI)."""

from __future__ import annotations

import pytest
from llamarig.checks.memory_limits import memory_limit


@pytest.mark.parametrize(
    ("processor", "board", "generation", "mts"),
    [
        # Locked chipsets: the processor decides.
        ("Intel(R) Core(TM) i5-2400 CPU @ 3.10GHz", "ASUSTeK COMPUTER INC. P8H61-M LX", 3, 1333),
        ("Intel(R) Core(TM) i5-3470 CPU @ 3.20GHz", "Intel Corporation DH61CR", 3, 1600),
        ("Intel(R) Core(TM) i7-4790K CPU @ 4.00GHz", "Gigabyte Technology Co., Ltd. B85M-D3H", 3, 1600),
        ("Intel(R) Core(TM) i5-6500 CPU @ 3.20GHz", "ASUSTeK COMPUTER INC. H110M-K", 4, 2133),
        ("Intel(R) Core(TM) i3-8100 CPU @ 3.60GHz", "ASRock B360M Pro4", 4, 2400),
        ("Intel(R) Core(TM) i5-8400 CPU @ 2.80GHz", "ASUSTeK COMPUTER INC. PRIME H310M-E R2.0", 4, 2666),
        ("Intel(R) Core(TM) i5-10400F CPU @ 2.90GHz", "ASRock H410M-HDV", 4, 2666),
        ("Intel(R) Core(TM) i7-10700 CPU @ 2.90GHz", "ASRock B460M Pro4", 4, 2933),
        ("12th Gen Intel(R) Core(TM) i5-12400F", "Micro-Star PRO H610M-G DDR4 (MS-7D46)", 4, 3200),
        # Makers of whole computers.
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", "Dell Inc. 0NNNCT", 4, 2666),
        ("AMD Ryzen 5 PRO 2400G with Radeon Vega Graphics", "HP 83E7", 4, 2933),
        # The processor decides on every board.
        ("Intel(R) Xeon(R) CPU E5-2650 v4 @ 2.20GHz", "INTEL X99-F8", 4, 2400),
        ("Intel(R) Xeon(R) CPU E5-2620 v3 @ 2.40GHz", "ASUSTeK COMPUTER INC. X99-DELUXE", 4, 1866),
        ("Intel(R) Xeon(R) CPU E5-2670 0 @ 2.60GHz", "Supermicro X9DRi-LN4+", 3, 1600),
        ("Intel(R) Xeon(R) Gold 6430", "Supermicro X13DEI", 5, 4400),
        ("Intel(R) Xeon(R) Silver 4410Y", "Supermicro X13SEI-F", 5, 4000),
        ("Intel(R) Xeon(R) Gold 6426Y", "Supermicro X13DEI", 5, 4800),
        ("Intel(R) Xeon(R) Gold 6548Y+", "Supermicro X13DEI", 5, 5200),
        ("Intel(R) Xeon(R) w3-2435", "ASUSTeK COMPUTER INC. Pro WS W790-ACE", 5, 4400),
        ("AMD EPYC 8324P 32-Core Processor", "GIGABYTE ME03-CE0-000", 5, 4800),
        ("Intel(R) Celeron(R) N5105 @ 2.00GHz", "HARDKERNEL ODROID-H3", 4, 2933),
        ("AMD A8-9600 RADEON R7, 10 COMPUTE CORES 4C+6G", "ASUSTeK COMPUTER INC. PRIME A320M-K", 4, 2400),
        ("Intel(R) Core(TM) i7-10510U CPU @ 1.80GHz", "HP 86B1", 4, 2666),
        ("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", "Micro-Star MS-17E2", 4, 2666),
    ],
)
def test_a_limit(processor: str, board: str, generation: int, mts: int) -> None:
    limit = memory_limit(processor, board, generation)
    assert limit is not None
    assert limit.mts == mts
    assert limit.processor in limit.setter


@pytest.mark.parametrize(
    ("processor", "board", "generation"),
    [
        ("Intel(R) Core(TM) i7-6700K CPU @ 4.00GHz", "Gigabyte Technology Co., Ltd. Z170X-Gaming 5", 4),
        ("11th Gen Intel(R) Core(TM) i5-11400F @ 2.60GHz", "ASUSTeK COMPUTER INC. PRIME B560M-K", 4),
        ("13th Gen Intel(R) Core(TM) i5-13400F", "Gigabyte Technology Co., Ltd. B760 GAMING X AX", 5),
        ("Intel(R) Core(TM) i7-5820K CPU @ 3.30GHz", "MSI X99A RAIDER (MS-7885)", 4),
        ("AMD Ryzen 5 1600 Six-Core Processor", "ASUSTeK COMPUTER INC. PRIME A320M-K", 4),
        ("AMD Ryzen 9 7950X 16-Core Processor", "ASRock B650M-HDV/M.2", 5),
        ("AMD FX(tm)-8350 Eight-Core Processor", "ASUSTeK COMPUTER INC. M5A97 R2.0", 3),
        ("Intel(R) Core(TM) i7-12700K", "ASUSTeK COMPUTER INC. ROG STRIX Z690-A GAMING WIFI D4", None),
        ("Intel(R) Xeon(R) w9-3495X", "ASUSTeK COMPUTER INC. Pro WS W790E-SAGE SE", 5),
        ("", "", 4),
    ],
)
def test_no_limit_where_a_profile_may_exceed_it(processor: str, board: str, generation: int | None) -> None:
    assert memory_limit(processor, board, generation) is None
