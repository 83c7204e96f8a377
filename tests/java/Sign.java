import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.Reader;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.PrivateKey;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Comparator;
import java.util.List;
import com.google.protobuf.CodedInputStream;
import org.bouncycastle.asn1.ASN1Encoding;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.asn1.x509.SubjectKeyIdentifier;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.jcajce.JcaCertStore;
import org.bouncycastle.cms.CMSProcessableByteArray;
import org.bouncycastle.cms.CMSSignedDataGenerator;
import org.bouncycastle.cms.CMSSignedDataStreamGenerator;
import org.bouncycastle.cms.SignerInfoGenerator;
import org.bouncycastle.cms.jcajce.JcaSignerInfoGeneratorBuilder;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.openssl.PEMParser;
import org.bouncycastle.openssl.jcajce.JcaPEMKeyConverter;
import org.bouncycastle.operator.ContentSigner;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.operator.jcajce.JcaDigestCalculatorProviderBuilder;

/**
 * Signs uploads with BouncyCastle, as national backends in Java do. It shares no code with Keyferry: it reads the keys
 * with Google's library and puts them into canonical form by itself.
 *
 * <p>Its argument names a file with one job a line: FORM UPLOAD CERTIFICATES KEY OUT. The first certificate is the
 * signer's. FORM is a signature algorithm of Java, and any of: direct (no signed attributes), ski (the signer by its key
 * identifier), nocerts, der (BouncyCastle writes BER by itself), stream (by the generator that writes as it goes).
 */
public class Sign {
    private static final BouncyCastleProvider BC = new BouncyCastleProvider();

    public static void main(String[] arguments) throws Exception {
        for (String job : Files.readAllLines(Path.of(arguments[0]))) {
            String[] part = job.split(" ");
            byte[] content = canonicalBatch(Files.readAllBytes(Path.of(part[1])));
            List<X509CertificateHolder> certificates = new ArrayList<>();
            for (Object one : pem(part[2])) {
                certificates.add((X509CertificateHolder) one);
            }
            PrivateKeyInfo key = (PrivateKeyInfo) pem(part[3]).get(0);
            PrivateKey own = new JcaPEMKeyConverter().setProvider(BC).getPrivateKey(key);
            Files.write(Path.of(part[4]), sign(List.of(part[0].split(",")), content, certificates, own));
        }
    }

    private static List<Object> pem(String file) throws IOException {
        List<Object> objects = new ArrayList<>();
        try (Reader reader = Files.newBufferedReader(Path.of(file)); PEMParser parser = new PEMParser(reader)) {
            for (Object one = parser.readObject(); one != null; one = parser.readObject()) {
                objects.add(one);
            }
        }
        return objects;
    }

    private static byte[] sign(List<String> form, byte[] content, List<X509CertificateHolder> certificates,
            PrivateKey key) throws Exception {
        ContentSigner signer = new JcaContentSignerBuilder(form.get(0)).setProvider(BC).build(key);
        JcaSignerInfoGeneratorBuilder builder = new JcaSignerInfoGeneratorBuilder(
                new JcaDigestCalculatorProviderBuilder().setProvider(BC).build());
        builder.setDirectSignature(form.contains("direct"));
        X509CertificateHolder own = certificates.get(0);
        SignerInfoGenerator info = form.contains("ski")
                ? builder.build(signer, SubjectKeyIdentifier.fromExtensions(own.getExtensions()).getKeyIdentifier())
                : builder.build(signer, own);
        JcaCertStore store = new JcaCertStore(form.contains("nocerts") ? List.of() : certificates);
        if (form.contains("stream")) {
            CMSSignedDataStreamGenerator generator = new CMSSignedDataStreamGenerator();
            generator.addSignerInfoGenerator(info);
            generator.addCertificates(store);
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            try (var stream = generator.open(out, false)) {
                stream.write(content);
            }
            return out.toByteArray();
        }
        CMSSignedDataGenerator generator = new CMSSignedDataGenerator();
        generator.addSignerInfoGenerator(info);
        generator.addCertificates(store);
        var signed = generator.generate(new CMSProcessableByteArray(content), false);
        return form.contains("der") ? signed.toASN1Structure().getEncoded(ASN1Encoding.DER) : signed.getEncoded();
    }

    /** The keys in the order of the base64 of their canonical bytes. */
    private static byte[] canonicalBatch(byte[] upload) throws IOException {
        CodedInputStream in = CodedInputStream.newInstance(upload);
        List<byte[]> keys = new ArrayList<>();
        while (in.readTag() == (1 << 3 | 2)) {
            keys.add(canonicalKey(in.readByteArray()));
        }
        keys.sort(Comparator.comparing(Base64.getEncoder()::encodeToString));
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        for (byte[] key : keys) {
            out.write(key);
        }
        return out.toByteArray();
    }

    private static byte[] canonicalKey(byte[] key) throws IOException {
        byte[] data = {};
        String origin = "";
        int start = 0, period = 0, risk = 0, type = 0, onset = 0;
        List<String> visited = new ArrayList<>();
        CodedInputStream in = CodedInputStream.newInstance(key);
        for (int tag = in.readTag(); tag != 0; tag = in.readTag()) {
            switch (tag >> 3) {
                case 1 -> data = in.readByteArray();
                case 2 -> start = in.readUInt32();
                case 3 -> period = in.readUInt32();
                case 4 -> risk = in.readInt32();
                case 5 -> visited.add(in.readString());
                case 6 -> origin = in.readString();
                case 7 -> type = in.readEnum();
                case 8 -> onset = in.readSInt32();
                default -> throw new IOException("a field that is not known: " + (tag >> 3));
            }
        }
        String text = field(data) + field(number(start)) + field(number(period)) + field(number(risk))
                + field(text(String.join(",", visited))) + field(text(origin)) + field(number(type))
                + field(number(onset));
        return text.getBytes(StandardCharsets.US_ASCII);
    }

    private static String field(byte[] bytes) {
        return Base64.getEncoder().encodeToString(bytes) + ".";
    }

    private static byte[] number(int value) {
        return ByteBuffer.allocate(4).putInt(value).array();
    }

    private static byte[] text(String value) {
        return value.getBytes(StandardCharsets.UTF_8);
    }
}
