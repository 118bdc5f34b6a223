import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.utils.Utils;

/** Prints the golden vectors of ../hash.go: key in hex, murmur2 as unsigned, partition of 1, 8 and 48. */
public final class Golden {
    public static void main(String[] args) {
        List<byte[]> keys = new ArrayList<>();
        for (String s : new String[] {"", "a", "ab", "abc", "abcd", "ws_demo", "ws_0", "~p0-0", "ключ", "鍵", "🔑"}) {
            keys.add(s.getBytes(StandardCharsets.UTF_8));
        }
        Random random = new Random(1); // the same vectors on every run
        for (int length = 1; length <= 64; length++) {
            for (int i = 0; i < 4; i++) {
                byte[] key = new byte[length];
                random.nextBytes(key);
                keys.add(key);
            }
        }
        for (byte[] key : keys) {
            System.out.printf("%s\t%s\t%d\t%d\t%d%n", HexFormat.of().formatHex(key), Integer.toUnsignedString(Utils.murmur2(key)),
                BuiltInPartitioner.partitionForKey(key, 1), BuiltInPartitioner.partitionForKey(key, 8),
                BuiltInPartitioner.partitionForKey(key, 48));
        }
    }
}
